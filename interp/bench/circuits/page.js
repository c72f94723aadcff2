"use strict";
(() => {
  // Titles of columns sort; cells without a number stay last.
  const sort = (table, title) => {
    const column = title.cellIndex;
    const down = title.getAttribute("aria-sort") === "ascending";
    for (const cell of table.tHead.rows[0].cells) cell.removeAttribute("aria-sort");
    title.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (row) => Number(row.cells[column].dataset.value);
    const rows = [...table.tBodies[0].rows];
    rows.sort((a, b) => Number.isNaN(key(a)) - Number.isNaN(key(b)) || (down ? key(b) - key(a) : key(a) - key(b)));
    table.tBodies[0].append(...rows);
  };
  for (const table of document.querySelectorAll("table.sorts")) {
    table.tHead.addEventListener("click", ({ target }) => {
      if (target.closest("button")) sort(table, target.closest("th"));
    });
  }
})();
