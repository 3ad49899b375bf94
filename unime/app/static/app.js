// The page's frame: its three parts, of which one is shown, and how a part asks. Answers hold names
// and texts of strangers' files, which are only ever put into text nodes and attributes.

const PARTS = ["search", "classify", "compare"];
const slots = {}; // the pictures of each part

async function start() {
  showTheme();
  showSearch();
  showClassify();
  showCompare();
  addEventListener("hashchange", showPart);
  addEventListener("paste", pasted);
  addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.target.closest("input, textarea, select")) return;
    event.preventDefault();
    location.hash = "search";
    byId("query").focus();
  });
  showPart();
  try {
    showAbout(await (await fetch("/about")).json());
  } catch {
    byId("remarks").append(h("p", { class: "warning" }, NO_ANSWER));
  }
}

const NO_ANSWER = "The program behind this page does not answer. Is it still running in its terminal?";
const partShown = () => PARTS.find((name) => location.hash === `#${name}`) || PARTS[0];

function showPart() {
  const shown = partShown();
  for (const name of PARTS) byId(name).hidden = name !== shown;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${shown}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

function showAbout(about) {
  document.title = `${about.title} · UniME`;
  byId("title").textContent = about.title;
  byId("facts").textContent = `${about.items.toLocaleString("en")} items, by ${about.model} (${about.dimensions} dimensions)`;
  byId("remarks").append(...about.remarks.map((remark) => h("p", { class: "warning" }, remark)));
  byId("instruction").value = about.instruction;
  byId("labels").value = about.labels.join("\n");
  showExamples(about.examples);
}

// What a part asks at its address: shows that it does, and why there is no answer. A later question
// ends an earlier one, whose answer is not shown whenever it comes.
function asker(name) {
  const part = byId(name), results = part.querySelector(".results");
  const state = part.querySelector(".state"), problem = part.querySelector(".problem");
  let running = null;
  const end = () => {
    running?.abort();
    running = null;
    part.classList.remove("busy");
    results.removeAttribute("aria-busy");
  };
  const fail = (reason) => {
    end();
    results.replaceChildren();
    state.textContent = "";
    problem.textContent = reason;
  };
  const ask = async (doing, makeBody, show) => {
    end();
    const own = running = new AbortController();
    problem.textContent = "";
    state.textContent = doing;
    part.classList.add("busy");
    results.setAttribute("aria-busy", "true");
    try {
      const content = JSON.stringify(await makeBody());
      const answer = await fetch(`/${name}`, { method: "POST", body: content, signal: own.signal, headers: { "content-type": "application/json" } });
      const found = await answer.json();
      if (own !== running) return;
      if (!answer.ok) return fail(found.error);
      end();
      results.replaceChildren();
      state.textContent = show(found, results);
    } catch (error) {
      if (own !== running) return;
      fail(error instanceof Unreadable ? error.message : NO_ANSWER);
    }
  };
  return { ask, fail };
}

const linesOf = (id) => byId(id).value.split("\n").map((line) => line.trim()).filter(Boolean);
const counted = (count, one, many) => `${count} ${count === 1 ? one : many}`;
