// Plotly, loaded once, and what every figure of ours has in common.

import { el } from "./dom.js";

let plotly = null;

export function loadPlotly() {
  plotly ??= new Promise((resolve, reject) => {
    const script = el("script", { src: new URL("./plotly.min.js", import.meta.url) });
    script.onload = () => resolve(window.Plotly);
    script.onerror = () => reject(new Error("The charting script could not be loaded."));
    document.head.append(script);
  });
  return plotly;
}

// A design token as it is on this element now, light or dark.
export function token(element, name) { return getComputedStyle(element).getPropertyValue(`--bgpo-${name}`).trim(); }

// Plotly reads a small set of tags in names; a run called "<b>" is to be shown, not obeyed.
export function plain(text) {
  return String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

// Plotly does not break lines by itself.
export function wrapped(text, width = 56) {
  const lines = [""];
  for (const word of String(text).split(" ")) {
    if (lines[lines.length - 1].length + word.length > width) lines.push("");
    lines[lines.length - 1] += `${word} `;
  }
  return lines.map((line) => plain(line.trim())).join("<br>");
}

export function shade(colour, opacity = 0.14) {
  const [r, g, b] = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
  return `rgba(${r},${g},${b},${opacity})`;
}

// Axes and margins of a quiet figure in the colours of the page.
export function baseLayout(element) {
  const soft = token(element, "text-soft"), line = token(element, "line"), text = token(element, "text");
  const axis = {
    gridcolor: line, linecolor: line, zerolinecolor: line, zerolinewidth: 1, gridwidth: 1, tickfont: { size: 11, color: soft },
    ticks: "", automargin: false, exponentformat: "e", minexponent: 4, separatethousands: true, showspikes: false, nticks: 6,
  };
  return {
    axis, soft, line, text,
    layout: {
      autosize: true, margin: { l: 46, r: 14, t: 6, b: 34 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: token(element, "sans") || "system-ui", size: 11, color: soft }, showlegend: false,
      hoverlabel: { bgcolor: token(element, "surface"), bordercolor: line, font: { size: 12, color: text, family: token(element, "sans") || "system-ui" } },
    },
  };
}
