// Which of the user's labels fits a picture best.

function showClassify() {
  const asked = asker("classify");
  const slot = makeSlot("classify", { most: 8, what: "Add pictures", changed: () => {} });
  byId("classify").querySelector("form").addEventListener("submit", (event) => {
    event.preventDefault();
    const pictures = [...slot.held];
    if (!pictures.length) return asked.fail("No picture to classify: add one.");
    const makeBody = async () => ({ images: await Promise.all(pictures.map(named)), labels: linesOf("labels"), templates: linesOf("templates") });
    asked.ask("Classifying…", makeBody, (found, results) => {
      results.append(...found.pictures.map((labels, place) => labelCard(pictures[place], labels)));
      return `${counted(pictures.length, "picture", "pictures")}; numbers are cosines.`;
    });
  });

  function labelCard(picture, labels) {
    const scores = labels.map(([, score]) => score), low = Math.min(0, ...scores), high = Math.max(...scores, 1e-6);
    const rows = labels.map(([label, score]) => {
      const bar = h("i");
      bar.style.width = `${(100 * (score - low)) / (high - low)}%`;
      return h("li", {}, h("span", {}, label), h("span", {}, cosine(score)), h("span", { class: "bar", "aria-hidden": "true" }, bar));
    });
    return h("article", { class: "card" }, h("img", { class: "shown", src: picture.source, alt: picture.name }),
      h("h3", {}, picture.name), h("ol", { class: "labels", "aria-label": `Labels of ${picture.name}` }, rows));
  }
}
