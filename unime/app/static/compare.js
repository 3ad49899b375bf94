// Cosines of a handful of pictures and sentences.

function showCompare() {
  const asked = asker("compare");
  const slot = makeSlot("compare", { most: 8, what: "Add pictures", changed: () => {} });
  byId("compare").querySelector("form").addEventListener("submit", (event) => {
    event.preventDefault();
    const pictures = [...slot.held], sentences = linesOf("sentences"), things = [...pictures, ...sentences];
    if (things.length < 2) return asked.fail("Two pictures or sentences at least are needed to compare.");
    const makeBody = async () => ({ items: [
      ...(await Promise.all(pictures.map(named))), ...sentences.map((text) => ({ text }))] });
    asked.ask("Comparing…", makeBody, ({ cosines }, results) => {
      const head = h("thead", {}, h("tr", {}, h("td"), things.map((thing) => h("th", { scope: "col" }, headOf(thing)))));
      const rows = cosines.map((row, place) => h("tr", {}, h("th", { scope: "row" }, headOf(things[place])), row.map(cell)));
      results.append(h("div", { class: "scroll", role: "region", "aria-labelledby": "compare-title", tabindex: "0" },
        h("table", { class: "cosines" }, head, h("tbody", {}, rows))));
      return `${things.length} by ${things.length} cosines.`;
    });
  });

  const headOf = (thing) => typeof thing === "string" ? h("span", { class: "clamp", title: thing }, thing)
    : h("img", { src: thing.source, alt: thing.name, title: thing.name });

  function cell(value) {
    const shown = h("td", {}, cosine(value));
    shown.style.background = `color-mix(in srgb, var(--accent) ${Math.round(35 * Math.max(0, value))}%, var(--paper))`;
    return shown;
  }
}
