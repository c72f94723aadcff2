"use strict";
// Pictures of circuits: zoom, hover, a threshold and pinned nodes. Without it they are complete, but still.
(() => {
  const MOST_ZOOM = 10;
  const STEP = 1.35;
  const HINT = "Click a node to pin it. Drag to move; scroll to zoom, once the picture is clicked or with Ctrl held.";

  const made = (name, attributes = {}, text = "") => {
    const node = Object.assign(document.createElement(name), attributes);
    node.textContent = text;
    return node;
  };
  const percent = (share) => `${Number((100 * share).toPrecision(2))} %`;

  // What a title says, which is ours to show from now on.
  function takeTitle(element) {
    const title = element.querySelector("title");
    title.remove();
    return title.textContent;
  }

  function start(figure) {
    const root = figure.querySelector("svg");
    const scene = root.querySelector(".scene");
    const ends = (element) => [element.dataset.source, element.dataset.target];
    const lines = [...scene.querySelectorAll(".line")].reverse(); // the strongest first
    const links = [...scene.querySelectorAll(".link")];
    const nodes = new Map([...scene.querySelectorAll(".node")].map((node) => [node.dataset.node, node]));
    const texts = new Map([...lines, ...nodes.values()].map((element) => [element, takeTitle(element)]));
    const home = scene.getAttribute("viewBox").split(" ").map(Number);
    const pinned = new Set();
    let box = [...home];
    let active = null; // the node or line under the pointer, or with the focus
    let drag = null;

    const tools = made("div", { className: "circuit-tools" });
    const told = made("div", { className: "circuit-told" });
    const pins = made("ul", { className: "circuit-pins" });
    pins.setAttribute("aria-label", "Pinned nodes");
    told.setAttribute("role", "status");
    const slider = made("input", { type: "range", min: "1", max: String(lines.length), value: String(lines.length) });
    const shown = made("output");
    figure.prepend(tools);
    figure.append(told, pins);

    function show() {
      const count = Number(slider.value);
      lines.forEach((line, rank) => {
        line.classList.toggle("gone", rank >= count);
        line.hit.classList.toggle("gone", rank >= count);
      });
      const alive = new Set(lines.slice(0, count).flatMap(ends));
      for (const [key, node] of nodes) node.classList.toggle("gone", !alive.has(key));
      for (const link of links) link.classList.toggle("gone", !ends(link).every((key) => alive.has(key)));
      const least = count ? `, each at least ${percent(lines[count - 1].dataset.share)} of the circuit` : "";
      shown.textContent = `${count} of ${lines.length}${least}`;
      light();
    }

    // What is pinned or pointed at, with everything next to it, stands out.
    function light() {
      const chosen = new Set(pinned);
      if (active?.dataset.node) chosen.add(active.dataset.node);
      const lit = new Set(chosen);
      for (const path of [...lines, ...links]) {
        const on = path === active || ends(path).some((key) => chosen.has(key));
        path.classList.toggle("lit", on);
        if (on && !path.classList.contains("gone")) ends(path).forEach((key) => lit.add(key));
      }
      for (const [key, node] of nodes) {
        node.classList.toggle("lit", lit.has(key));
        node.classList.toggle("pinned", pinned.has(key));
        node.setAttribute("aria-pressed", String(pinned.has(key)));
      }
      scene.classList.toggle("dimmed", active !== null || pinned.size > 0);
    }

    function pin(key) {
      if (!pinned.delete(key)) pinned.add(key);
      listPins();
      light();
    }

    function listPins() {
      pins.replaceChildren(...[...pinned].map((key) => {
        const { name, role } = nodes.get(key).dataset;
        const button = made("button", { type: "button" }, role ? `${name}: ${role}` : name);
        button.setAttribute("aria-label", `unpin ${button.textContent}`);
        button.addEventListener("click", () => { pin(key); (pins.querySelector("button") ?? root).focus(); });
        const item = made("li");
        item.append(button);
        return item;
      }));
      if (!pinned.size) pins.append(made("li", {}, HINT));
    }

    // Say what is pointed at, beside it: x and y are in the window.
    function tell(element, x, y) {
      active = element;
      told.textContent = element ? texts.get(element) : "";
      light();
      if (!element) return;
      const frame = figure.getBoundingClientRect();
      const left = Math.min(x - frame.x + 14, frame.width - told.offsetWidth - 4);
      const below = y + 18 + told.offsetHeight > window.innerHeight;
      told.style.left = `${Math.max(0, left)}px`;
      told.style.top = `${y - frame.y + (below ? -told.offsetHeight - 12 : 18)}px`;
    }

    function look(next) {
      const width = Math.min(home[2], Math.max(home[2] / MOST_ZOOM, next[2]));
      const height = (width * home[3]) / home[2];
      const kept = (value, low, room) => Math.min(low + room, Math.max(low, value));
      box = [kept(next[0], home[0], home[2] - width), kept(next[1], home[1], home[3] - height), width, height];
      scene.setAttribute("viewBox", box.join(" "));
    }

    // Zoom about a point of the scene, the middle where none is given.
    function zoom(factor, at = [box[0] + box[2] / 2, box[1] + box[3] / 2]) {
      const width = Math.min(home[2], Math.max(home[2] / MOST_ZOOM, box[2] / factor));
      const ratio = width / box[2];
      look([at[0] - (at[0] - box[0]) * ratio, at[1] - (at[1] - box[1]) * ratio, width]);
    }

    const move = (x, y) => look([box[0] + x * box[2], box[1] + y * box[2], box[2]]);

    function inScene({ clientX, clientY }) {
      const point = new DOMPoint(clientX, clientY).matrixTransform(scene.firstElementChild.getScreenCTM().inverse());
      return [point.x, point.y];
    }

    function reset() {
      pinned.clear();
      slider.value = slider.max;
      look(home);
      listPins();
      tell(null);
      show();
    }

    function onKey(event) {
      const node = event.target.closest(".node");
      const actions = {
        "+": () => zoom(STEP), "=": () => zoom(STEP), "-": () => zoom(1 / STEP), 0: () => look(home),
        ArrowUp: () => move(0, -0.08), ArrowDown: () => move(0, 0.08), ArrowLeft: () => move(-0.08, 0), ArrowRight: () => move(0.08, 0),
        Escape: () => tell(null), ...(node && { Enter: () => pin(node.dataset.node), " ": () => pin(node.dataset.node) }),
      };
      if (event.ctrlKey || event.metaKey || event.altKey || !Object.hasOwn(actions, event.key)) return;
      event.preventDefault();
      actions[event.key]();
    }

    function onWheel(event) {
      if (!event.ctrlKey && !event.metaKey && !root.contains(document.activeElement)) return;
      event.preventDefault();
      zoom(Math.exp(-event.deltaY / 400), inScene(event));
    }

    function onMove(event) {
      if (!drag) {
        const found = event.target.closest(".node, .hit");
        return tell(found?.line ?? found, event.clientX, event.clientY);
      }
      if (!drag.moved && Math.hypot(event.clientX - drag.x, event.clientY - drag.y) < 5) return;
      if (!drag.moved) root.setPointerCapture(event.pointerId);
      drag.moved = true;
      tell(null);
      const scale = box[2] / root.getBoundingClientRect().width;
      look([drag.box[0] - (event.clientX - drag.x) * scale, drag.box[1] - (event.clientY - drag.y) * scale, box[2]]);
    }

    function dress() {
      for (const line of lines) {
        line.hit = line.cloneNode();
        line.hit.setAttribute("class", "hit");
        line.hit.line = line;
        scene.insertBefore(line.hit, scene.querySelector(".node"));
      }
      for (const node of nodes.values()) {
        const attributes = { tabindex: "0", role: "button", "aria-label": texts.get(node).replaceAll("\n", ". ") };
        for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
      }
      root.setAttribute("role", "group");
      root.setAttribute("tabindex", "0");
      const buttons = made("span", { className: "zoom" });
      const add = (text, label, act) => {
        const button = made("button", { type: "button" }, text);
        button.setAttribute("aria-label", label);
        button.addEventListener("click", act);
        buttons.append(button);
      };
      add("−", "zoom out", () => zoom(1 / STEP));
      add("+", "zoom in", () => zoom(STEP));
      add("reset", "reset the picture", reset);
      const label = made("label", {}, "strongest edges");
      label.append(slider);
      tools.append(buttons, ...(lines.length ? [label, shown] : []));
    }

    function listen() {
      slider.addEventListener("input", show);
      root.addEventListener("keydown", onKey);
      root.addEventListener("wheel", onWheel, { passive: false });
      root.addEventListener("pointerdown", ({ clientX, clientY, button }) => {
        if (button === 0) drag = { x: clientX, y: clientY, box: [...box], moved: false };
      });
      root.addEventListener("pointermove", onMove);
      root.addEventListener("pointercancel", () => { drag = null; });
      root.addEventListener("pointerup", ({ target }) => {
        const node = target.closest(".node");
        if (drag && !drag.moved && node) pin(node.dataset.node);
        drag = null;
      });
      root.addEventListener("pointerleave", () => { if (!drag?.moved) drag = null; tell(null); });
      root.addEventListener("focusin", ({ target }) => {
        if (!target.matches(".node:focus-visible")) return;
        const place = target.getBoundingClientRect();
        tell(target, place.right, place.bottom - 14);
      });
      root.addEventListener("focusout", () => tell(null));
    }

    dress();
    listen();
    reset();
  }

  document.querySelectorAll(".circuit").forEach(start);
})();
