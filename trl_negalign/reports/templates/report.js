"use strict";
// Pages and filters of the samples, and the filter of the settings. Texts are set as text, never as HTML.
const data = JSON.parse(document.getElementById("data").textContent);
const filters = document.getElementById("filters").elements;
const pager = document.getElementById("pager");
let page = 0;

function element(name, className, text) {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

function offer(select, values, text) {
  select.append(new Option("any", ""));
  for (const value of new Set(values)) select.append(new Option(text(value), value));
}

function marked(group, mark) {
  return group.responses.find((response) => response.mark === mark)?.kind;
}

function matches(group) {
  const wanted = {
    run: group.run,
    step: group.step,
    best: marked(group, "best"),
    worst: marked(group, "worst"),
    tied: group.tied,
  };
  for (const [name, value] of Object.entries(wanted)) {
    if (filters[name].value !== "" && filters[name].value !== String(value)) return false;
  }
  const text = filters.text.value.toLowerCase();
  return [group.query, ...group.responses.map((response) => response.text)].some((part) =>
    part.shown.toLowerCase().includes(text),
  );
}

function fill(pre, text) {
  pre.textContent = text.shown;
  if (text.left) pre.append(element("span", "left", ` … ${text.left} more characters`));
}

function rewardLines(response) {
  const lines = Object.entries(response.rewards);
  if (lines.length > 1 && response.total !== null) lines.push(["weighted sum", response.total]);
  return lines.map(([name, value]) => `${name} ${value === null ? "none" : value.toFixed(3)}`).join("\n");
}

function show(group) {
  const shown = document.getElementById("group").content.cloneNode(true);
  const run = data.runs.length > 1 ? `${data.runs[group.run]}, ` : "";
  shown.querySelector("h3").textContent = `${run}step ${group.step}${group.tied ? ": all rewards tied, no signal" : ""}`;
  fill(shown.querySelector(".query"), group.query);
  for (const response of group.responses) {
    const row = element("tr", response.mark, "");
    const candidate = element("td", "", response.kind);
    if (response.mark) candidate.append(element("span", "mark", response.mark));
    const text = document.createElement("pre");
    fill(text, response.text);
    const cell = document.createElement("td");
    cell.append(text);
    const rewards = element("td", "number", rewardLines(response));
    row.append(candidate, rewards, cell);
    shown.querySelector("tbody").append(row);
  }
  for (const pair of group.pairs) shown.querySelector(".pairs").append(element("li", "", pair));
  return shown;
}

function draw() {
  const found = data.groups.filter(matches);
  const size = Number(filters.size.value);
  const last = Math.max(Math.ceil(found.length / size) - 1, 0);
  page = Math.min(Math.max(page, 0), last);
  const start = page * size;
  const groups = found.slice(start, start + size);
  document.getElementById("groups").replaceChildren(...groups.map(show));
  const of = found.length === data.groups.length ? `${found.length}` : `${found.length} that match (of ${data.groups.length})`;
  const range = groups.length ? `groups ${start + 1}–${start + groups.length} of ${of}` : `no group matches (of ${data.groups.length})`;
  document.getElementById("place").textContent = range;
  for (const button of pager.querySelectorAll("button")) {
    button.disabled = ["first", "previous"].includes(button.name) ? page === 0 : page === last;
  }
  return last;
}

function turn(event) {
  const places = { first: 0, previous: page - 1, next: page + 1, last: Infinity };
  if (event.target.name in places) {
    page = places[event.target.name];
    draw();
  }
}

if (data.groups.length) {
  offer(filters.run, data.groups.map((group) => group.run).sort(), (index) => data.runs[index]);
  offer(filters.step, data.groups.map((group) => group.step), String);
  for (const mark of ["best", "worst"]) {
    const kinds = data.groups.map((group) => marked(group, mark)).filter((kind) => kind !== undefined);
    offer(filters[mark], kinds.sort(), String);
  }
  if (data.runs.length === 1) filters.run.parentElement.hidden = true;
  const form = document.getElementById("filters");
  const restart = () => {
    page = 0;
    draw();
  };
  form.hidden = pager.hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", restart);
  filters.clear.addEventListener("click", () => {
    form.reset();
    restart();
  });
  pager.addEventListener("click", turn);
  restart();
}

document.getElementById("setting")?.addEventListener("input", (event) => {
  for (const row of document.querySelectorAll("#settings tbody tr")) {
    row.hidden = !row.cells[0].textContent.includes(event.target.value);
  }
});
