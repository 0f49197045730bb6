for (const table of document.querySelectorAll("table.sortable"))
  table.tHead.rows[0].querySelectorAll("th").forEach((head, column) => {
    let up = false;
    head.addEventListener("click", () => {
      up = !up;
      const text = row => row.cells[column].textContent;
      const value = row => parseFloat(text(row).replace(/,/g, ""));
      const order = (a, b) => value(a) - value(b) || text(a).localeCompare(text(b));
      const rows = [...table.tBodies[0].rows].sort((a, b) => up ? order(a, b) : order(b, a));
      table.tBodies[0].append(...rows);
    });
  });
