// Sorting of tables by their columns. The page is complete without it.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const value = (row, place) => {
    const said = row.cells[place].firstChild ? row.cells[place].firstChild.textContent : "";
    const plain = said.replace(/−/g, "-").replace(/^[<>] ?/, "").replace(/,/g, "");
    const found = parseFloat(plain);
    return /^[+-]?[\d.]/.test(plain) && !Number.isNaN(found) ? found : said;
  };
  const compare = (a, b) =>
    typeof a === "number" && typeof b === "number" ? a - b
      : typeof a === "number" ? 1 : typeof b === "number" ? -1
        : a.localeCompare(b);
  heads.forEach((head, place) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const rising = head.getAttribute("aria-sort") === "descending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", rising ? "ascending" : "descending");
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => (rising ? 1 : -1) * compare(value(a, place), value(b, place)));
      table.tBodies[0].append(...rows);
    });
  });
}
