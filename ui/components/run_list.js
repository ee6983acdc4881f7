// The runs: found, sorted, grouped, put away. A click opens one; the coloured dot adds it to the comparison or takes it
// out. What is searched for, the order and the grouping are in the page's address.

import { el, figure, post, setText, styles } from "./dom.js";
import { live, openArea, writeUrl } from "./live.js";
import { keys } from "./keys.js";
import { menuButton } from "./menu.js";
import { GROUPINGS, SORTS, differingKnobs, grouped, matches, sorted, terms } from "./run_filter.js";
import { Row } from "./run_row.js";

const GOING = new Set(["queued", "launching", "running", "paused"]); // listed even when archived: nothing works unseen
const ROOM = 500; // rows that are drawn at first, and how many more a click draws
const NOT_WORTH_GROUPING = new Set(["seed"]);

export function mount(element) {
  styles("run_list");
  styles("alert_list");
  styles("menu");
  new RunList(element);
}

class RunList {
  constructor(element) {
    this.element = element;
    this.rows = new Map();
    this.heads = new Map();
    this.folded = new Set();
    this.seen = new Set(); // sweeps, which are folded at first
    this.cursor = null;
    this.room = ROOM;
    this.read();
    this.count = el("h2", { class: "bgpo-eyebrow" });
    this.search = el("input", { type: "search", class: "bgpo-input", placeholder: "Filter: name, #tag, mc_samples=16", "aria-label": "Filter the runs", "aria-describedby": "run-filter-help",
      autocomplete: "off", spellcheck: "false", on: { input: () => this.set({ query: this.search.value }), keydown: (event) => this.searchKey(event) } });
    this.search.value = this.query;
    this.group = el("select", { class: "bgpo-input", "aria-label": "Group the runs by", on: { change: () => this.set({ by: this.group.value }) } });
    this.sort = el("select", { class: "bgpo-input", "aria-label": "Sort the runs by", on: { change: () => this.set({ order: this.sort.value }) } },
      ...Object.entries(SORTS).map(([name, [label]]) => el("option", { value: name, text: label })));
    this.list = el("ul", { "aria-label": "Runs", on: { keydown: (event) => this.listKey(event) } });
    this.empty = el("p", { class: "empty bgpo-soft", hidden: true });
    this.more = el("button", { type: "button", class: "bgpo-button small", on: { click: () => this.further() } });
    this.end = el("li", { class: "more", data: { group: "more" } }, this.more);
    element.append(el("div", { class: "top" }, this.count, this.menu()),
      el("div", { class: "find", role: "search" }, this.search, el("span", { id: "run-filter-help", class: "bgpo-sr", text: "Words, #tag, knob=value, reward>0.9, status:failed; a minus in front excludes." })),
      el("div", { class: "order" }, this.group, this.sort), this.list, this.empty);
    live.watch(element, ["runs", "selection"], () => this.draw());
    live.watch(element, ["view"], (event) => { if (event.detail.has("query")) { this.read(); this.search.value = this.query; this.draw(); } });
    this.addKeys();
    this.draw();
  }

  read() {
    const query = new URLSearchParams(location.search);
    this.query = query.get("find") || "";
    this.by = query.get("group") || "";
    this.order = Object.hasOwn(SORTS, query.get("sort") || "") ? query.get("sort") : "newest";
    this.archived = query.get("archived") === "1";
  }

  set(changes) {
    Object.assign(this, changes, { room: ROOM });
    writeUrl({ find: this.query, group: this.by, sort: this.order === "newest" ? "" : this.order, archived: this.archived ? "1" : "" });
    this.draw();
  }

  // ---- drawing

  draw() {
    if (this.query || this.by || this.archived || this.order !== "newest") live.everything(); // any of them is looked for among all
    const all = live.list(), names = Object.keys(live.defaults), knob = (run, name) => live.knob(run, name);
    const wanted = terms(this.query);
    const listed = all.filter((run) => run.archived === this.archived || GOING.has(run.status) || live.selected.includes(run.id));
    const runs = listed.filter((run) => matches(run, wanted, knob, names));
    const groups = grouped(sorted(runs, this.order), this.by, knob);
    for (const group of groups) if (group.sweep && !this.seen.has(group.key)) {
      this.seen.add(group.key);
      if (!group.runs.some((run) => live.selected.includes(run.id))) this.folded.add(group.key);
    }
    this.fill(groups);
    this.drawControls(all, names, knob);
    this.drawCount(runs.length, listed.length);
    const nodes = groups.filter((group) => group.title || group.drawn.length).flatMap((group) => [...(group.title ? [this.head(group)] : []), ...group.drawn.map((run) => this.row(run))]);
    if (this.undrawn || live.older) nodes.push(this.end);
    const order = nodes.map((node) => node.dataset.run || node.dataset.group).join();
    if (order !== this.drawnOrder) { this.drawnOrder = order; const focus = document.activeElement; this.list.replaceChildren(...nodes); if (this.list.contains(focus)) focus.focus({ preventScroll: true }); }
    this.fit();
    for (const id of this.rows.keys()) if (!live.runs.has(id)) this.rows.delete(id);
    this.empty.hidden = runs.length > 0 || !live.loaded;
    setText(this.empty, this.query ? "No run matches this filter." : this.archived ? "Nothing is archived." : "All runs are archived.");
  }

  // What is drawn of each group: of a list of thousands, as many rows as there is room for.
  fill(groups) {
    let room = this.room;
    for (const group of groups) {
      group.drawn = this.folded.has(group.key) ? [] : group.runs.slice(0, room);
      room -= group.drawn.length;
    }
    this.shown = groups.flatMap((group) => group.drawn);
    this.undrawn = groups.reduce((sum, group) => sum + (this.folded.has(group.key) ? 0 : group.runs.length - group.drawn.length), 0);
  }

  drawCount(found, listed) {
    const all = listed + live.older, whole = (count) => count.toLocaleString("en");
    const coming = live.older > 0 && live.newest > live.runs.size + live.older;
    setText(this.count, `${found === all ? "" : `${whole(found)}${coming ? " so far" : ""} of `}${whole(all)} ${this.archived ? "archived " : ""}${all === 1 ? "run" : "runs"}`);
    this.more.disabled = coming && !this.undrawn;
    setText(this.more, this.more.disabled ? `Reading ${whole(live.older)} older runs…` : "Show more runs");
  }

  further() {
    this.room += ROOM;
    if (this.undrawn < ROOM) live.further();
    this.draw();
  }

  // The list ends where the window does, whatever stands above it in the column.
  fit() {
    const side = this.element.closest("#bgpo-side");
    if (!side) return;
    const above = Math.round(this.list.getBoundingClientRect().top - side.getBoundingClientRect().top + side.scrollTop);
    if (above !== this.above) { this.above = above; this.list.style.setProperty("--above", `${above}px`); }
  }

  row(run) {
    if (!this.rows.has(run.id)) this.rows.set(run.id, new Row(run.id));
    const row = this.rows.get(run.id);
    row.draw(run);
    row.node.classList.toggle("cursor", this.cursor === run.id);
    return row.node;
  }

  head(group) {
    if (!this.heads.has(group.key)) this.heads.set(group.key, new GroupHead(group.key, () => this.fold(group.key)));
    const head = this.heads.get(group.key);
    head.draw(group, this.folded.has(group.key));
    return head.node;
  }

  fold(key) {
    if (!this.folded.delete(key)) this.folded.add(key);
    this.draw();
  }

  drawControls(all, names, knob) {
    const differing = differingKnobs(all, names, knob).filter((name) => !NOT_WORTH_GROUPING.has(name) && !GROUPINGS[name]);
    if (this.by && !GROUPINGS[this.by] && names.includes(this.by) && !differing.includes(this.by)) differing.push(this.by);
    const key = [...Object.keys(GROUPINGS), ...differing].join();
    if (key !== this.groupKey) {
      this.groupKey = key;
      this.group.replaceChildren(el("option", { value: "", text: "No groups" }), ...Object.entries(GROUPINGS).map(([name, { label }]) => el("option", { value: name, text: `By ${label.toLowerCase()}` })),
        el("optgroup", { label: "Knobs that differ" }, ...differing.map((name) => el("option", { value: name, text: `By ${name}` }))));
    }
    if (this.group.value !== this.by) this.group.value = this.by;
    if (this.sort.value !== this.order) this.sort.value = this.order;
  }

  // ---- what can be done with several

  menu() {
    const chosen = () => live.chosen().map((run) => run.id);
    return menuButton("More of the list", () => [
      { text: "Compare all that are listed", disabled: this.shown.length < 2, run: () => live.select(this.shown.map((run) => run.id)) },
      { text: this.archived ? "Bring the selected back" : "Archive the selected", key: "e", disabled: !chosen().length, run: () => this.archive(chosen()) },
      null,
      { text: "Show what is archived", pressed: this.archived, run: () => this.set({ archived: !this.archived }) },
    ], { symbol: "⋯", class: "bgpo-menu-button dots" });
  }

  async archive(ids) {
    const runs = ids.map((id) => live.run(id)).filter(Boolean);
    if (!runs.length) return;
    const archived = !runs.every((run) => run.archived);
    try { await post("/api/archive", { runs: ids, archived }); } catch { return; }
    for (const run of runs) live.runs.set(run.id, { ...run, archived }); // an answer under way may not know of it yet
    if (archived) this.leave(ids);
    this.draw();
    await live.poll();
  }

  // What is put away is no longer looked at; something else is, so that nothing has to be chosen for us.
  leave(ids) {
    const staying = live.selected.filter((id) => !ids.includes(id));
    const next = live.list().find((run) => !run.archived);
    live.select(staying.length || !next ? staying : [next.id]);
  }

  // ---- keyboard

  addKeys() {
    keys.add("j", "Next run", "Runs", () => this.move(1));
    keys.add("k", "Previous run", "Runs", () => this.move(-1));
    keys.add(" ", "Compare the run, or not", "Runs", () => (this.cursor === null ? false : live.toggle(this.cursor)));
    keys.add("Enter", "Open the run", "Runs", () => (this.cursor === null ? false : live.select([this.cursor])));
    keys.add("e", "Archive the run, or bring it back", "Runs", () => this.archive(this.cursor === null ? live.selected : [this.cursor]));
    keys.add("/", "Filter the runs", "Runs", () => { openArea("runs"); this.search.focus(); this.search.select(); });
    keys.add("n", "New run", "Runs", () => openArea("new"));
  }

  move(by) {
    if (!this.shown?.length || !this.element.offsetParent) return false;
    const from = this.cursor ?? live.selected[0];
    const place = this.shown.findIndex((run) => run.id === from);
    const next = this.shown[Math.max(0, Math.min(this.shown.length - 1, place + (place < 0 ? 1 : by)))];
    const before = this.rows.get(this.cursor);
    this.cursor = next.id;
    before?.node.classList.remove("cursor");
    const row = this.rows.get(next.id);
    row.node.classList.add("cursor");
    row.open.focus({ preventScroll: true });
    row.node.scrollIntoView({ block: "nearest" });
    return true;
  }

  listKey(event) {
    const id = Number(event.target.closest?.("li")?.dataset.run);
    if (event.key !== " " || !event.target.matches(".open") || !id) return;
    event.preventDefault();
    this.cursor = id;
    live.toggle(id);
  }

  searchKey(event) {
    if (event.key === "Escape") { this.search.value = ""; this.set({ query: "" }); this.search.blur(); }
    if (event.key === "Enter" || event.key === "ArrowDown") { event.preventDefault(); this.cursor = null; this.move(0); }
  }
}

class GroupHead {
  constructor(key, fold) {
    this.title = el("b");
    this.words = el("span", { class: "bgpo-soft" });
    this.button = el("button", { type: "button", class: "fold", on: { click: fold } }, el("i", { "aria-hidden": "true" }), this.title, this.words);
    this.all = el("button", { type: "button", class: "all", text: "Compare", on: { click: () => live.select(this.ids) } });
    this.node = el("li", { class: "head", data: { group: key } }, this.button, this.all);
  }

  draw(group, folded) {
    this.ids = group.runs.map((run) => run.id);
    setText(this.title, group.title);
    const best = Math.max(...group.runs.map((run) => run.best ?? -Infinity));
    const ended = group.runs.filter((run) => ["finished", "stopped", "failed"].includes(run.status)).length;
    const count = group.sweep ? `${ended} of ${group.runs.length} runs ended` : group.runs.length;
    setText(this.words, `${count}${Number.isFinite(best) ? `, best ${figure(best)}` : ""}`);
    this.button.setAttribute("aria-expanded", String(!folded));
    this.all.setAttribute("aria-label", `Compare the runs of ${group.title}`);
    this.all.hidden = group.runs.length < 2;
  }
}
