// Tables of averages, tasks with their bars, and provenance.

// A table whose columns sort. columns: {label, header?, plain?, key?(row), cell(row) -> element, text or array}
function sortedTable(table, columns, rows, chosen = null) {
  const state = chosen || { column: -1, down: true };
  const draw = () => {
    const { column, down } = state;
    const shown = [...rows];
    if (column >= 0) {
      const key = columns[column].key;
      const missing = (value) => value === null || value === undefined;
      shown.sort((left, right) => {
        const [a, b] = [key(left), key(right)];
        if (missing(a) || missing(b)) return missing(a) - missing(b); // last in both directions
        const order = typeof a === "string" ? a.localeCompare(b) : a - b;
        return down ? -order : order;
      });
    }
    const heads = columns.map(({ label, key, header }, place) => {
      const sort = place !== column ? "none" : down ? "descending" : "ascending";
      const inside = key ? h("button", { type: "button", onclick: () => sortBy(place) }, unbroken(label)) : header || label;
      return h("th", { scope: "col", "aria-sort": key ? sort : null }, inside);
    });
    table.replaceChildren(
      h("thead", {}, h("tr", {}, heads)),
      h("tbody", {}, shown.map((row) => h("tr", { class: row.kind || null }, columns.map(({ cell, style }, place) =>
        h(place ? "td" : "th", { scope: place ? null : "row", class: style || null }, cell(row)))))));
  };
  const sortBy = (place) => {
    const first = typeof columns[place].key(rows[0] || {}) !== "string"; // numbers: high ones first
    state.down = state.column === place ? !state.down : first;
    state.column = place;
    draw();
    table.querySelectorAll("thead th")[place].querySelector("button").focus();
  };
  draw();
}

function showAverages() {
  const some = data.tables.some((table) => table.published.length);
  const grey = some ? " Rows in grey are published ones, as their sources give them, without intervals." : "";
  const chance = data.chance === null ? "" : ` Chance: ${percent(data.chance)}.`;
  byId("scores-note").textContent =
    `In %, with 95 % bootstrap intervals over queries; the best of each column is bold.${grey}${chance}`;
  byId("scores-notes").replaceChildren(...data.notes.map((note) => h("li", {}, note)));
  byId("averages").append(...data.tables.map(({ title, columns, ours, published }, place) => {
    const rows = [
      ...data.models.map(({ name, warnings }, model) =>
        ({ name, remark: warnings.length ? "⚠ see the warning above" : null, cells: ours[model] })),
      ...published.map(({ name, remark, scores }) =>
        ({ name, remark, kind: "published", cells: scores.map((score) => (score === null ? null : [score])) })),
    ];
    const table = h("table", { "aria-labelledby": `table-${place}` });
    sortedTable(table, [nameColumn, ...columns.map(({ label }, column) => scoreColumn(label, column, rows))], rows);
    return [
      h("h3", { id: `table-${place}` }, title),
      h("div", { class: "scroll", role: "region", "aria-labelledby": `table-${place}`, tabindex: 0 }, table)];
  }).flat());
}

const nameColumn = {
  label: "Model",
  key: (row) => row.name || "",
  cell: (row) => [row.name, row.remark ? h("span", { class: "small" }, row.remark) : null],
};

function scoreColumn(label, column, rows) {
  const best = Math.max(...rows.map((row) => row.cells[column]?.[0] ?? -1));
  return {
    label,
    key: (row) => row.cells?.[column]?.[0] ?? null,
    cell: (row) => {
      const cell = row.cells[column];
      if (!cell) return "—";
      const number = h(cell[0] === best ? "strong" : "span", {}, percent(cell[0]));
      return [number, cell.length > 1 ? h("span", { class: "small" }, interval(cell)) : null];
    },
  };
}

function showTasks() {
  const state = { baseline: data.baseline, meta: "", sort: { column: -1, down: true } };
  const metas = [...new Set(data.tasks.map((task) => task.meta_task))];
  const change = (key, value) => { state[key] = value; draw(); };
  const controls = [select("Tasks", [["", "all"], ...metas.map((meta) => [meta, meta])], "", (value) => change("meta", value))];
  if (data.models.length > 1) {
    controls.unshift(select("Baseline", modelOptions(), state.baseline, (value) => {
      state.sort = { column: -1, down: true }; // the columns change
      change("baseline", Number(value));
    }));
  }
  byId("task-controls").append(...controls);
  const draw = () => {
    const rows = data.tasks.filter((task) => !state.meta || task.meta_task === state.meta);
    sortedTable(byId("task-table"), taskColumns(state.baseline), rows, state.sort);
    byId("task-legend").replaceChildren(...data.models.map((model, place) =>
      h("span", {}, h("i", { style: `background: ${modelColour(place, state.baseline)}` }),
        model.name + (place === state.baseline && data.models.length > 1 ? " (baseline)" : ""))));
  };
  draw();
}

function taskColumns(baseline) {
  const columns = [
    {
      label: "Task",
      key: (task) => task.name,
      cell: (task) => [task.name, h("span", { class: "small" }, [task.meta_task, task.metric].filter(Boolean).join(" · "))],
    },
    {
      header: h("span", { class: "axis" }, h("span", {}, "0"), h("span", {}, "50"), h("span", {}, "100")),
      style: "plot",
      cell: (task) => taskBars(task, baseline),
    },
  ];
  data.models.forEach((model, place) => columns.push({
    label: model.name,
    key: (task) => task.scores[place]?.[0] ?? null,
    cell: (task) => {
      const cell = task.scores[place];
      if (!cell) return h("span", { class: "muted", title: task.not_supported[place] }, "not supported");
      return [percent(cell[0]), h("span", { class: "small" }, interval(cell))];
    },
  }));
  data.models.forEach((model, place) => {
    if (place === baseline) return;
    columns.push({
      label: `${model.name}: difference`,
      key: (task) => difference(task, place, baseline)?.[0] ?? null,
      cell: (task) => differenceCell(difference(task, place, baseline)),
    });
  });
  columns.push(
    { label: "Chance", key: (task) => task.chance, cell: (task) => (task.chance === null ? "—" : percent(task.chance)) },
    { label: "Queries", key: (task) => task.num_queries, cell: (task) => String(task.num_queries ?? "—") });
  return columns;
}

// [difference, low?, high?]: the paired one where the report has it.
function difference(task, place, baseline) {
  const [own, other] = [data.models[place].name, data.models[baseline].name];
  const [paired, back] = [task.differences[`${own}|${other}`], task.differences[`${other}|${own}`]];
  if (paired) return paired;
  if (back) return [-back[0], -back[2], -back[1]];
  if (!task.scores[place] || !task.scores[baseline]) return null;
  return [task.scores[place][0] - task.scores[baseline][0]];
}

function differenceCell(found) {
  if (!found) return "—";
  const sure = found.length > 1 && (found[1] > 0 || found[2] < 0);
  const number = h(sure ? "strong" : "span", { class: sure ? (found[0] > 0 ? "up" : "down") : null }, signed(found[0]));
  return [number, found.length > 1 ? h("span", { class: "small" }, `${signed(found[1])} to ${signed(found[2])}`) : null];
}

// A bar a model with its interval as a whisker; the baseline's score as a line through all of them.
function taskBars(task, baseline) {
  const [width, bar, gap] = [240, 8, 4];
  const height = data.models.length * (bar + gap);
  const x = (score) => (width - 2) * Math.min(1, Math.max(0, score)) + 1;
  const said = data.models.map((model, place) =>
    `${model.name} ${task.scores[place] ? percent(task.scores[place][0]) : "not supported"}`);
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, height, preserveAspectRatio: "none", role: "img", "aria-label": `${task.name}: ${said.join(", ")}` });
  const line = (from, to, top, bottom, style) =>
    svg("line", { x1: from, x2: to, y1: top, y2: bottom, style });
  for (const tick of [0, 0.5, 1]) picture.append(line(x(tick), x(tick), 0, height, "stroke: var(--line)"));
  task.scores.forEach((cell, place) => {
    if (!cell) return;
    const [top, style] = [place * (bar + gap) + gap / 2, "stroke: var(--ink); stroke-width: 1.2"];
    const middle = top + bar / 2;
    picture.append(
      svg("rect", { x: 1, y: top, width: Math.max(1, x(cell[0]) - 1), height: bar, style: `fill: ${modelColour(place, baseline)}` }),
      line(x(cell[1]), x(cell[2]), middle, middle, style),
      line(x(cell[1]), x(cell[1]), middle - 2.5, middle + 2.5, style),
      line(x(cell[2]), x(cell[2]), middle - 2.5, middle + 2.5, style));
  });
  const base = task.scores[baseline];
  if (base && data.models.length > 1) {
    picture.append(line(x(base[0]), x(base[0]), 0, height, "stroke: var(--ink); stroke-dasharray: 2 2; opacity: .7"));
  }
  return picture;
}

function showProvenance() {
  const facts = Object.keys(data.models[0].facts);
  const row = (name, values, differs) =>
    h("tr", {}, h("th", { scope: "row" }, name, differs ? h("span", { class: "small" }, "differs") : null),
      values.map((value) => h("td", { class: "words" }, value === null || value === "" ? "—" : String(value))));
  const different = data.settings.filter((setting) => setting.differs);
  byId("provenance-table").append(
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, ""), data.models.map((model) => h("th", { scope: "col" }, model.name)))),
    h("tbody", {},
      different.map((setting) => row(setting.name, setting.values, true)),
      facts.map((fact) => row(fact, data.models.map((model) => model.facts[fact])))));
  const same = data.settings.filter((setting) => !setting.differs);
  const bare = data.tasks.filter((task) => task.without_examples.some(Boolean)).map((task) => task.name);
  const shown = Object.entries(data.not_shown).map(([kind, count]) => `${count} ${kind}`);
  filled(byId("notes"), {}, [
    same.length ? h("p", {}, `The same for all that have them: ${same.map(({ name, common }) => `${name} ${common}`).join("; ")}.`) : null,
    bare.length ? h("details", { id: "bare" },
      h("summary", {}, `Without predictions of some model, so not (wholly) in the gallery: ${bare.length} ${bare.length === 1 ? "task" : "tasks"}`),
      h("p", {}, bare.join(", "))) : null,
    shown.length ? h("p", { id: "not-shown" }, `Pictures that are not shown: ${shown.join(", ")}.`) : null,
    data.problems.length ? h("ul", {}, data.problems.map((problem) => h("li", {}, problem))) : null]);
}
