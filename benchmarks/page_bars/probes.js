// What the bars ask a page, run inside it. Loaded before the page's own scripts.

const frame = () => new Promise((next) => requestAnimationFrame(next));
const shownCharts = () => [...document.querySelectorAll(".bgpo-chart-board .chart")].filter((one) => one.offsetParent);
const plotOf = (chart) => shownCharts().find((one) => one.dataset.chart === chart).querySelector(".plot");
const lastStep = (plot) => Math.max(...plot.data.flatMap((trace) => trace.x.slice(-1)));
const tools = (what) => document.querySelector(`.bgpo-board-tools ${what}`);

// noted while the page is built: when each of these was first there, in milliseconds since the navigation
const noted = {};
const wanted = {
  list: () => [...document.querySelectorAll(".bgpo-run-list li[data-run] .name")].some((one) => one.textContent && one.offsetParent),
  six: () => shownCharts().filter((one) => one.querySelector(".plot .trace .js-line, .plot canvas")).length >= 6,
};

function note() {
  const open = Object.entries(wanted).filter(([name]) => !(name in noted));
  for (const [name, there] of open) if (there()) noted[name] = performance.now();
  if (open.length) requestAnimationFrame(note);
}

// milliseconds from `act` until `done` is true, its frame included
async function timed(act, done) {
  const start = performance.now();
  act();
  while (!done()) await frame();
  await frame();
  return performance.now() - start;
}

const probes = {
  noted: (name) => noted[name],

  // the shown charts: what the axes show, which curves, how far they go
  charts: () => Object.fromEntries(shownCharts().filter((one) => one.querySelector(".plot")._fullLayout?.xaxis).map((one) => {
    const plot = one.querySelector(".plot"), { xaxis, yaxis } = plot._fullLayout, pin = one.querySelector(".pin");
    return [one.dataset.chart, {
      x: xaxis.range.slice(), y: yaxis.range.slice(), log: yaxis.type === "log", axis: xaxis.title.text,
      names: plot.data.map((trace) => trace.name || "").filter(Boolean), pinned: pin.hidden ? null : pin.dataset.step,
    }];
  })),

  // what has to outlive every tick
  mark() { for (const one of shownCharts()) one.querySelector(".plot").dataset.mark = 1; },
  kept: () => ({
    "chart nodes": shownCharts().filter((one) => one.querySelector(".plot").dataset.mark).length,
    scroll: [Math.round(scrollY), Math.round(document.querySelector(".bgpo-run-list ul").scrollTop)],
    "hidden curves": shownCharts().map((one) => [...one.querySelectorAll(".legend button")].map((button) => button.getAttribute("aria-pressed"))),
  }),

  // polls at once, again and again, until the charts have been given so many times what is new
  async ticks(count) {
    const { live } = window.bgpo;
    let ticks = 0;
    live.addEventListener("points", () => { ticks += 1; });
    while (ticks < count) { await live.poll(); await new Promise((next) => setTimeout(next, 20)); }
  },

  // notes, for every time a chart was painted, the last step in it and when
  watchPaint(chart) {
    const plot = plotOf(chart);
    probes.painted = [];
    plot.on("plotly_afterplot", () => {
      const last = lastStep(plot);
      requestAnimationFrame(() => setTimeout(() => probes.painted.push([last, Date.now() / 1000])));
    });
  },

  // whether this becomes the highest value that is drawn, once the run is read as a whole again
  async peaks(chart, value) {
    const { live } = window.bgpo, plot = plotOf(chart), end = performance.now() + 3000;
    live.cursors.set(live.selected[0], 0);
    live.poll();
    while (performance.now() < end) {
      await frame();
      if (Math.max(...plot.data.flatMap((trace) => trace.y.filter((y) => y !== null))) === value) return true;
    }
    return false;
  },

  // from the end of the next drag until the finer curve is drawn
  watchZoom(chart) {
    const plot = plotOf(chart);
    let up = null, finer = false;
    window.addEventListener("pointerup", () => { up = performance.now(); }, { once: true, capture: true });
    window.bgpo.live.addEventListener("window", () => { finer = true; });
    plot.on("plotly_afterplot", () => {
      if (up !== null && finer && !probes.refined) requestAnimationFrame(() => { probes.refined = performance.now() - up; });
    });
  },

  // from one selected run to all of them on every chart on the screen
  compare(ids) {
    const onScreen = () => shownCharts().filter((one) => one.getBoundingClientRect().top < innerHeight);
    const full = () => onScreen().every((one) => one.querySelectorAll(".plot .scatterlayer .trace").length >= ids.length);
    return timed(() => window.bgpo.live.select(ids), () => window.bgpo.live.selected.length === ids.length && full());
  },

  // how long after each move of the mouse its frame is over, and the crosshair where the mouse is
  watchHover() {
    probes.hovers = [];
    window.addEventListener("pointermove", () => {
      const start = performance.now();
      requestAnimationFrame(() => setTimeout(() => probes.hovers.push(performance.now() - start)));
    }, { capture: true });
  },

  launch: () => timed(() => { probes.clicked = Date.now() / 1000; document.querySelector(".bgpo-launcher .start").click(); },
    () => document.querySelector(".bgpo-run-header .one h2")?.textContent && document.querySelector(".bgpo-run-list li[data-run]")),

  // from the moment a knob's value changes until its sentence is painted
  wrongValue(knob, value) {
    const field = document.querySelector(`#knob-${knob}`), input = field.querySelector("input[type=number], input");
    const set = Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value").set;
    return timed(() => {
      set.call(input, value);
      for (const type of ["input", "change", "blur"]) input.dispatchEvent(new Event(type, { bubbles: true }));
    }, () => field.querySelector(".fe-error"));
  },

  // steps through a whole trace by key; style and layout of every frame are in its time
  replay() {
    const stage = document.querySelector(".bgpo-lab .ds-stage"), times = [];
    const press = (key) => stage.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
    press("Home");
    const frames = Number(/of (\d+)/.exec(stage.querySelector(".ds-position").textContent)[1]);
    for (let step = 0; step < frames; step += 1) {
      const start = performance.now();
      press("ArrowRight");
      stage.getBoundingClientRect();
      times.push(performance.now() - start);
    }
    return { times, tokens: stage.querySelectorAll(".ds-filled").length };
  },

  // when each step of an answer was on the screen
  watchSteps(place) {
    probes.steps = [];
    let before = -1;
    const look = () => {
      const found = /Step (\d+)/.exec(document.querySelector(`${place} .ds-position`)?.textContent || "");
      const step = found ? Number(found[1]) : before;
      if (step !== before) { before = step; setTimeout(() => probes.steps.push([step, Date.now() / 1000])); }
      requestAnimationFrame(look);
    };
    look();
  },

  // everything that an address is to bring back
  view: () => ({
    address: [...new URLSearchParams(location.search)].map((pair) => pair.join("=")).sort().join("&"),
    runs: window.bgpo.live.selected.join(), axis: tools("[data-axis][aria-pressed=true]")?.dataset.axis,
    smoothing: tools("input[type=range]")?.value, pinned: tools(".pinned:not([hidden])")?.textContent ?? "",
    mean: [...document.querySelectorAll(".bgpo-board-tools .toggle")].map((one) => one.getAttribute("aria-pressed")),
  }),

  // the texts that Plotly draws are SVG, which axe does not judge: their colours against that of the card behind them
  contrasts() {
    const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    const light = (text) => {
      const [r, g, b] = text.match(/[\d.]+/g).map((c) => linear(Number(c) / 255));
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const texts = [...document.querySelectorAll(".chart .plot text")].filter((one) => one.textContent && one.getBoundingClientRect().width);
    return texts.map((one) => {
      const both = [getComputedStyle(one.closest(".chart")).backgroundColor, getComputedStyle(one).fill].map(light);
      return (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05);
    });
  },
};

window.probes = probes;
requestAnimationFrame(note);
