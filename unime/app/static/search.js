// Search by words, a picture or both.

const GONE = "is gone: update the index";
let searching;

function showSearch() {
  searching = asker("search");
  const slot = makeSlot("search", { most: 1, what: "Add a picture", changed: () => search(true) });
  byId("search").querySelector("form").addEventListener("submit", (event) => {
    event.preventDefault();
    search();
  });
  for (const id of ["kind", "limit"]) byId(id).addEventListener("change", () => search(true));

  // quietly: where there is nothing to look for, nothing is said
  function search(quietly = false) {
    const text = byId("query").value.trim(), [picture] = slot.held;
    if (!text && !picture) {
      if (!quietly) searching.fail("Nothing to look for: write something, or add a picture.");
      return;
    }
    const makeBody = async () => ({
      text,
      instruction: text ? byId("instruction").value.trim() : "",
      kind: byId("kind").value,
      limit: Number(byId("limit").value),
      image: picture?.file ? await contentOf(picture) : null,
      like: picture?.id ?? null,
    });
    searching.ask("Searching…", makeBody, showHits);
  }

  function showHits({ hits, cut }, results) {
    results.append(...hits.map(hitCard));
    const said = hits.length ? `${counted(hits.length, "result", "results")}, the best first; numbers are cosines.` : "Nothing was found.";
    return cut ? `${said} The text is longer than the model is shown: its beginning was looked for.` : said;
  }

  function hitCard(hit) {
    const name = hit.kind === "page" ? `${hit.name}, page ${hit.place}` : hit.kind === "text" ? `${hit.name}, line ${hit.line}` : hit.name;
    const more = () => {
      byId("query").value = "";
      byId("query").focus();
      byId("search").scrollIntoView();
      slot.put([{ name, id: hit.id, source: hit.kind === "text" ? null : `/pictures/${hit.id}/small` }]);
    };
    const isText = hit.kind === "text";
    return h("li", { class: "hit" },
      isText ? h("p", { class: "passage" }, hit.text) : pictureLink(hit, name),
      isText && !hit.is_there ? h("span", { class: "gone" }, GONE) : null,
      h("div", { class: "about" },
        h("span", { class: "name", title: name }, name),
        h("span", { class: "score" }, cosine(hit.score)),
        h("span", { class: "folder", title: hit.folder }, hit.folder.split("/").slice(-2).join("/"))),
      isText || hit.is_there ? h("button", { type: "button", "aria-label": `More like ${name}`, onclick: more }, "More like this") : null);
  }

  function pictureLink(hit, name) {
    if (!hit.is_there) return h("span", { class: "absent" }, GONE);
    const image = h("img", { src: `/pictures/${hit.id}/small`, alt: name, loading: "lazy", onerror: () =>
      image.replaceWith(h("span", { class: "absent" }, "cannot be read any more")) });
    return h("a", { class: "show", href: `/pictures/${hit.id}/large`, target: "_blank", rel: "noopener", "aria-label": `${name}, large, in a new tab` }, image);
  }
}

function showExamples(examples) {
  if (!examples.length) return;
  byId("examples").append("For example: ", ...examples.map((example) => h("button", { type: "button", onclick: () => {
    byId("query").value = example;
    byId("search").querySelector("form").requestSubmit();
  } }, example)));
}
