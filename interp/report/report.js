"use strict";
(() => {
  const page = JSON.parse(document.getElementById("data").textContent);
  const darkScreen = window.matchMedia("screen and (prefers-color-scheme: dark)");
  const config = { displayModeBar: false, responsive: true };
  let dark = darkScreen.matches;

  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const orNull = (value) => (Number.isFinite(value) ? value : null);

  // A copy of a figure in the colours of the screen. Tick labels are text of others: never a colour.
  const dressed = (value, key) => {
    if (key === "ticktext") return value;
    if (Array.isArray(value)) return value.map((item) => dressed(item));
    if (value !== null && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, dressed(item, name)]));
    }
    return dark && Object.hasOwn(page.dark, value) ? page.dark[value] : value;
  };

  const draw = (node, figure) => {
    const { data, layout } = dressed(figure);
    return Plotly.react(node, data, layout, config);
  };

  function sortRows(table, column) {
    const title = table.tHead.rows[0].cells[column];
    const down = title.getAttribute("aria-sort") === "ascending";
    for (const cell of table.tHead.rows[0].cells) cell.removeAttribute("aria-sort");
    title.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (row) => Number(row.cells[column].dataset.value);
    const missingLast = (a, b) => Number.isNaN(key(a)) - Number.isNaN(key(b));
    const rows = [...table.tBodies[0].rows];
    rows.sort((a, b) => missingLast(a, b) || (down ? key(b) - key(a) : key(a) - key(b)));
    table.tBodies[0].append(...rows);
  }

  // The table of a section: titles sort, and a button shows all rows.
  function listenToTable(number, nRows, noun) {
    const table = document.getElementById(`table-${number}`);
    table.tHead.addEventListener("click", ({ target }) => {
      if (target.closest("button")) sortRows(table, target.closest("th").cellIndex);
    });
    document.getElementById(`more-${number}`)?.addEventListener("click", ({ target }) => {
      const short = table.classList.toggle("short");
      target.setAttribute("aria-expanded", String(!short));
      target.textContent = short ? `Show all ${nRows} ${noun}` : "Show the first 10";
    });
  }

  function startResult(section, number) {
    const drawAll = () => section.figures.forEach((figure, index) => {
      draw(document.getElementById(`figure-${number}-${index}`), figure);
    });
    drawAll();
    listenToTable(number, section.rows, "rows");
    return drawAll;
  }

  function startAblation(section, number) {
    const at = (name) => document.getElementById(`${name}-${number}`);
    const nHeads = section.heads.length;
    const effects = new Float32Array(bytes(section.effects).buffer);
    const nPrompts = effects.length / nHeads;
    const patterns = section.patterns.map((pattern) => bytes(pattern.bytes));
    const grid = section.figures.heat.data[0].customdata;
    let chosen = section.first;
    let prompt = 0;

    const effect = (head, row) => effects[head * nPrompts + row];

    // Mean effect of the control heads on one prompt, over those that are finite.
    function controlEffect(head, row) {
      const finite = section.controls[head].map((control) => effect(control, row)).filter(Number.isFinite);
      return finite.length ? finite.reduce((sum, value) => sum + value, 0) / finite.length : null;
    }

    function drawHeat() {
      const figure = structuredClone(section.figures.heat);
      const y = grid.findIndex((row) => row.includes(chosen));
      const x = grid[y].indexOf(chosen);
      const line = { color: figure.layout.font.color, width: 2.5 };
      figure.layout.shapes = [{ type: "rect", x0: x - 0.5, x1: x + 0.5, y0: y - 0.5, y1: y + 0.5, line }];
      return draw(at("heat"), figure);
    }

    function drawDots() {
      const figure = structuredClone(section.figures.dots);
      const [own, controls, mean] = figure.data;
      const head = section.heads[chosen];
      own.x = own.y.map((_, row) => orNull(effect(chosen, row)));
      controls.x = own.y.map((_, row) => controlEffect(chosen, row));
      own.hovertext = controls.hovertext = section.figures.clean.data[0].hovertext;
      mean.x = [head.mean];
      Object.assign(mean.error_x, { array: [head.above], arrayminus: [head.below] });
      return draw(at("dots"), figure);
    }

    function drawPattern() {
      if (!section.patterns.length) return;
      const pattern = section.patterns[prompt];
      const slot = section.patternHeads[chosen];
      at("text").textContent = pattern.text;
      at("prompt").value = String(prompt);
      at("note").textContent = [slot === undefined ? "Not kept for this head." : pattern.note, section.patternNote].filter(Boolean).join(" ");
      if (slot === undefined) return Plotly.purge(at("pattern"));
      const n = pattern.labels.length;
      const cells = patterns[prompt].subarray(slot * n * n, (slot + 1) * n * n);
      const figure = structuredClone(pattern.figure);
      const rows = [...pattern.labels.keys()];
      const weight = (query, key) => (cells[query * n + key] === 255 ? null : cells[query * n + key] / 254);
      const said = (value) => (value === null ? "not finite" : value.toFixed(2));
      figure.data[0].z = rows.map((query) => rows.map((key) => weight(query, key)));
      figure.data[0].hovertext = rows.map((query) =>
        rows.map((key) => `${pattern.labels[query]} → ${pattern.labels[key]}: ${said(weight(query, key))}`));
      return draw(at("pattern"), figure);
    }

    function choose(head) {
      chosen = head;
      const { label, text } = section.heads[head];
      at("head").textContent = label;
      for (const field of at("detail").querySelectorAll("[data-field]")) field.textContent = text[field.dataset.field];
      at("detail").querySelector(".verdict").classList.toggle("claimed", text.verdict === "claimed");
      for (const row of at("table").tBodies[0].rows) {
        row.classList.toggle("chosen", row.querySelector("[data-head]").dataset.head === String(head));
      }
      drawHeat();
      drawDots();
      drawPattern();
    }

    function move(event) {
      const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (!step) return;
      event.preventDefault();
      let y = grid.findIndex((row) => row.includes(chosen));
      let x = grid[y].indexOf(chosen);
      do { y += step[0]; x += step[1]; } while (grid[y] && grid[y][x] === -1);
      if (grid[y] && grid[y][x] !== undefined) choose(grid[y][x]);
    }

    function drawAll() {
      draw(at("clean"), section.figures.clean);
      draw(at("top"), section.figures.top);
      choose(chosen);
    }

    function listen() {
      for (const name of ["heat", "top"]) {
        at(name).on("plotly_click", ({ points }) => choose(points[0].customdata));
      }
      at("dots").on("plotly_click", ({ points }) => {
        const found = section.patterns.findIndex((pattern) => pattern.prompt === points[0].pointNumber);
        if (found >= 0) { prompt = found; drawPattern(); }
      });
      at("heat").addEventListener("keydown", move);
      at("prompt")?.addEventListener("change", (event) => { prompt = Number(event.target.value); drawPattern(); });
      at("table").addEventListener("click", ({ target }) => {
        if (target.dataset.head) choose(Number(target.dataset.head));
      });
      listenToTable(number, nHeads, "heads");
    }

    drawAll();
    listen();
    return drawAll;
  }

  const starts = { ablation: startAblation };
  const redraws = page.sections.map((section, number) => (starts[section.kind] ?? startResult)(section, number));
  const redraw = (isDark) => { dark = isDark; redraws.forEach((draw) => draw()); };
  darkScreen.addEventListener("change", () => redraw(darkScreen.matches));
  window.addEventListener("beforeprint", () => {
    document.querySelectorAll("details").forEach((details) => { details.open = true; });
    redraw(false);
  });
  window.addEventListener("afterprint", () => redraw(darkScreen.matches));
})();
