"use strict";
// Draws the charts with plotly.js, where the page holds it; sorts and filters the tables; refreshes a live page.
const state = { axis: 0, words: [], hidden: new Set() };
const main = document.querySelector("main");
const search = document.querySelector("#filter");
const dark = matchMedia("(prefers-color-scheme: dark)");
const color = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const plain = text => text.replace(/&/g, "&amp;").replace(/</g, "&lt;");
const matches = label => !state.words.length || state.words.some(word => label.toLowerCase().includes(word));
const shows = label => matches(label) && !state.hidden.has(label);

function traces(chart, axis) {
  const found = [];
  chart.runs.forEach((run, number) => {
    const { x, y, low, high } = axis.curves[number];
    if (!x.length || !shows(run.label)) return;
    const ink = run.color || color("--ink"), common = { hoverinfo: "skip", showlegend: false };
    if (low) {
      found.push({ ...common, x: x.concat(x.slice().reverse()), y: high.concat(low.slice().reverse()),
        fill: "toself", fillcolor: ink, opacity: 0.15, line: { width: 0 }, mode: "lines" });
    }
    found.push({ x, y, mode: "lines", name: plain(run.label), line: { color: ink, width: 2, dash: run.dash },
      hovertemplate: `${plain(run.label)}<br>${plain(axis.title)} %{x:.4s}${axis.unit}<br>%{y:.3e}<extra></extra>` });
    found.push({ ...common, x: x.slice(-1), y: y.slice(-1), mode: "markers", cliponaxis: false,
      marker: { color: ink, size: 9, symbol: run.symbol } });
  });
  return found;
}

function layout(chart, axis) {
  const lines = { gridcolor: color("--line"), zerolinecolor: color("--line"), linecolor: color("--soft"), automargin: true };
  const limits = chart.limits && chart.limits.map(value => (chart.log ? Math.log10(value) : value));
  return {
    font: { color: color("--ink"), family: "system-ui, sans-serif", size: 13 }, showlegend: false,
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: { l: 10, r: 16, t: 34, b: 10 },
    hovermode: "closest", hoverlabel: { bgcolor: color("--paper"), font: { color: color("--ink") } },
    xaxis: { ...lines, title: { text: plain(axis.title) }, type: axis.log ? "log" : "linear", nticks: 8,
      ticksuffix: axis.unit, rangemode: "tozero" },
    yaxis: { ...lines, title: { text: plain(chart.title) }, type: chart.log ? "log" : "linear", exponentformat: "power",
      ...(limits ? { range: limits } : {}) },
    shapes: chart.targets.map(y => ({ type: "line", xref: "paper", x0: 0, x1: 1, y0: y, y1: y,
      line: { color: color("--soft"), width: 1, dash: "dash" } })),
    modebar: { color: color("--soft"), activecolor: color("--ink"), bgcolor: "rgba(0,0,0,0)" },
  };
}

const OPTIONS = { responsive: true, displaylogo: false, 
  modeBarButtons: [["toImage"], ["zoom2d", "pan2d"], ["zoomIn2d", "zoomOut2d", "resetScale2d"]] };  // none that sends data

function pressed(text, on, act) {
  const button = document.createElement("button");
  button.type = "button";
  button.append(text);
  button.setAttribute("aria-pressed", String(on));
  button.addEventListener("click", act);
  return button;
}

function key(run) {
  const svg = `<svg width="30" height="10" aria-hidden="true"><line x1="0" y1="5" x2="30" y2="5" stroke="${run.color || "currentColor"}"
    stroke-width="2.5" stroke-dasharray="${{ solid: "", dash: "7 4", dashdot: "8 3 2 3", dot: "2 3" }[run.dash]}"/></svg>`;
  const found = document.createRange().createContextualFragment(svg), ending = document.createElement("small");
  ending.textContent = run.ending;
  found.append(run.label, ending);
  return found;
}

function draw(figure) {
  const chart = JSON.parse(figure.querySelector("script").textContent);
  const axis = chart.axes[Math.min(state.axis, chart.axes.length - 1)];
  figure.querySelector(".axes").replaceChildren(...chart.axes.map((other, number) =>
    pressed(other.title, other === axis, () => { state.axis = number; drawAll(); })));
  figure.querySelector(".legend").replaceChildren(...chart.runs.filter(run => matches(run.label)).map(run => {
    const button = pressed(key(run), shows(run.label), () => { state.hidden.delete(run.label) || state.hidden.add(run.label); drawAll(); });
    button.addEventListener("dblclick", () => {
      const others = chart.runs.map(other => other.label).filter(label => label !== run.label);
      const alone = others.every(label => state.hidden.has(label));
      others.forEach(label => (alone ? state.hidden.delete(label) : state.hidden.add(label)));
      state.hidden.delete(run.label);
      drawAll();
    });
    return button;
  }));
  Plotly.react(figure.querySelector(".plot"), traces(chart, axis), layout(chart, axis), OPTIONS);
}

function drawAll() {
  for (const figure of main.querySelectorAll("figure.chart")) draw(figure);
  for (const row of main.querySelectorAll("[data-label]")) row.hidden = !matches(row.dataset.label);
}

function value(cell) {
  const text = cell.textContent, number = parseFloat(text);
  return text === "-" ? Infinity : Number.isNaN(number) ? text.toLowerCase() : number;
}

function sort(header) {
  const table = header.closest("table"), column = [...header.parentNode.children].indexOf(header);
  const down = header.getAttribute("aria-sort") === "ascending";
  for (const other of header.parentNode.children) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", down ? "descending" : "ascending");
  const rows = [...table.tBodies[0].rows].map(row => [value(row.cells[column]), row]);
  rows.sort(([a], [b]) => (typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1));
  if (down) rows.reverse();
  table.tBodies[0].append(...rows.map(([, row]) => row));
}

async function refresh() {
  let text;
  try { text = await (await fetch("main")).text(); } catch { document.querySelector("#live").textContent = "The server has stopped."; return; }
  if (text !== refresh.text) {
    const open = [...main.querySelectorAll("details[open]")].map(part => part.id);
    main.querySelectorAll(".plot").forEach(plot => window.Plotly && Plotly.purge(plot));
    main.innerHTML = refresh.text = text;
    for (const id of open) document.getElementById(id)?.setAttribute("open", "");
    drawAll();
  }
  setTimeout(refresh, 2000);
}

main.addEventListener("click", event => { const header = event.target.closest("th"); if (header) sort(header); });
search.addEventListener("input", () => { state.words = search.value.toLowerCase().split(/[\s,|]+/).filter(Boolean); drawAll(); });
dark.addEventListener("change", drawAll);
drawAll();
if (document.querySelector("#live")) setTimeout(refresh, 2000);
