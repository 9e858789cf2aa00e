"use strict";
// The queries of the page: found by their text, filtered, ordered, and walked through by keys. Without a script all are there.
const list = document.querySelector("#queries");
const all = [...list.children];
const search = document.querySelector("#search"), filter = document.querySelector("#filter");
const order = document.querySelector("#order"), count = document.querySelector("#count");
const figure = (query, name, sign = 1) => (name in query.dataset ? sign * Number(query.dataset[name]) : Infinity);
const by = (name, sign = 1) => (one, other) => {
  const [first, second] = [figure(one, name, sign), figure(other, name, sign)];
  return first === second ? 0 : first - second; // those without the figure come last
};
const orders = {
  contrast: () => 0, overlap: by("overlap"), kept: by("overlap", -1), worse: by("change"), better: by("change", -1),
};
const filters = {
  all: () => true, low: (query) => "low" in query.dataset, worse: (query) => Number(query.dataset.change) < 0,
  better: (query) => Number(query.dataset.change) > 0, missed: (query) => "missed" in query.dataset, open: (query) => !query.dataset.verdict,
  decided: (query) => Boolean(query.dataset.verdict),
};
const texts = new Map(all.map((query) => [query, query.textContent.toLowerCase()]));
const shown = () => [...list.children].filter((query) => !query.hidden);

function update() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const query of all) {
    query.hidden = !(filters[filter.value](query) && words.every((word) => texts.get(query).includes(word)));
  }
  list.append(...[...all].sort(orders[order.value]));
  count.textContent = `${shown().length.toLocaleString("en")} of ${all.length.toLocaleString("en")}`;
}

function move(step) {
  const seen = shown();
  const at = seen.findIndex((query) => query.contains(document.activeElement));
  const next = seen[Math.min(Math.max(at + step, 0), seen.length - 1)];
  if (next) next.querySelector("summary").focus();
}

const keys = {
  "/": () => search.focus(), j: () => move(1), k: () => move(-1),
  o: () => document.activeElement.closest("details")?.toggleAttribute("open"),
  Escape: () => { search.value = ""; filter.value = "all"; update(); document.activeElement.blur(); },
};
document.addEventListener("keydown", (event) => {
  const typing = document.activeElement === search && event.key !== "Escape";
  if (typing && event.key === "Enter") move(1);
  if (typing || event.ctrlKey || event.metaKey || event.altKey || !(event.key in keys)) return;
  event.preventDefault();
  keys[event.key]();
});
for (const each of [search, filter, order]) each.addEventListener("input", update);
// what is folded is printed, too
addEventListener("beforeprint", () => shown().forEach((query) => query.setAttribute("open", "")));
document.querySelector("#controls").hidden = false;
update();
