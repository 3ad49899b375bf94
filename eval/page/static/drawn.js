// Figures that were drawn beforehand, which stay on their white paper whatever the theme.

function showDrawn() {
  if (!data.drawn.length) {
    byId("drawn").remove();
    byId("drawn-link").remove();
    return;
  }
  byId("drawn-figures").append(...data.drawn.map(({ title, text, uri }) =>
    h("figure", {},
      h("div", { class: "scroll", role: "region", "aria-label": title, tabindex: "0" }, h("img", { src: uri, alt: `${title}. ${text}` })),
      h("figcaption", {}, h("b", {}, title), h("span", { class: "muted" }, ` ${text}`)))));
}
