"use strict";
// Charts as plain SVG, drawn anew at the width they have. Nothing here knows what the numbers mean.

const SVG = "http://www.w3.org/2000/svg";

function svg(tag, attributes, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function html(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name in node && name !== "list" && typeof value !== "string") node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

function whole(value) { return Math.round(value).toLocaleString("en-US"); }

// Three digits that matter, with thousands separated: 0.042, 1.35, 27.1, 1,234.
function short(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  if (size >= 100 || size === 0) return whole(value);
  return value.toFixed(size >= 10 ? 1 : size >= 1 ? 2 : 3);
}

// The next round number at or above: 1, 2, 3, 4, 5, 6 or 8 times a power of ten.
function roundUp(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 3, 4, 5, 6, 8, 10].find((step) => step * power >= value * 0.999) * power;
}

function replaceWith(box, node) { box.replaceChildren(node); }

function empty(box, text) { replaceWith(box, html("p", {class: "empty"}, text)); }

function canvas(box, label) {
  const width = Math.max(160, box.clientWidth || 320);
  const height = 150;
  const root = svg("svg", {viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label});
  return {root, width, height, left: 0, top: 16, right: width, bottom: height - 18};
}

function grid(c, most, unit) {
  for (const share of [0, 0.5, 1]) {
    const y = c.bottom - share * (c.bottom - c.top);
    c.root.append(svg("line", {class: "rule", x1: c.left, x2: c.right, y1: y, y2: y}));
  }
  const labels = [0.5, 1].map((share) => svg("text", {x: 0, y: c.bottom - share * (c.bottom - c.top) - 4}, `${short(most * share)}${unit ? " " + unit : ""}`));
  return () => c.root.append(...labels); // on top of what is drawn meanwhile
}

// Lines over time. `lines` is [{name, values}], the newest value last; gaps are null. `mark` is a value to keep below.
function timeChart(box, lines, points, unit, mark, label) {
  const all = lines.flatMap((line) => line.values).filter((value) => value !== null);
  if (!all.length) { empty(box, "Nothing to show yet"); return; }
  const c = canvas(box, label);
  const most = roundUp(Math.max(...all, unit ? 1e-6 : 1));
  const labelAxis = grid(c, most, unit);
  if (mark !== null && mark <= most) {
    const level = c.bottom - (mark / most) * (c.bottom - c.top);
    c.root.append(svg("line", {class: "mark", x1: c.left, x2: c.right, y1: level, y2: level}));
    c.root.append(svg("text", {x: c.right, y: level - 4, "text-anchor": "end"}, `target ${short(mark)} ${unit}`));
  }
  const x = (index, count) => c.right - ((count - 1 - index) / (points - 1)) * (c.right - c.left);
  const y = (value) => c.bottom - (value / most) * (c.bottom - c.top);
  lines.forEach((line, number) => {
    const count = line.values.length;
    let path = "", pen = "M", begin = null, end = null;
    line.values.forEach((value, index) => {
      if (value === null) { pen = "M"; return; }
      const at = `${x(index, count).toFixed(1)} ${y(value).toFixed(1)}`;
      path += `${pen}${at}`; pen = "L";
      begin ??= x(index, count); end = x(index, count);
    });
    if (number === 0 && !path.slice(1).includes("M")) {
      c.root.append(svg("path", {class: `area f${number + 1}`, d: `${path}L${end} ${c.bottom}L${begin} ${c.bottom}Z`}));
    }
    c.root.append(svg("path", {class: `line k${number + 1}`, d: path}));
  });
  labelAxis();
  c.root.append(svg("text", {x: c.left, y: c.height - 3}, "2 min ago"));
  c.root.append(svg("text", {x: c.right, y: c.height - 3, "text-anchor": "end"}, "now"));
  replaceWith(box, c.root);
  if (lines.length > 1) {
    const legend = html("div", {class: "legend"});
    lines.forEach((line, number) => {
      const last = line.values[line.values.length - 1];
      legend.append(html("span", {}, html("i", {class: `key c${number + 1}`}), `${line.name} `, html("b", {}, short(last))));
    });
    box.append(legend);
  }
}

// Bars by label; `bars` is [[label, value]]. Labels are thinned out where they would touch.
function barChart(box, bars, label) {
  if (!bars.length) { empty(box, "No batch in the last ten seconds"); return; }
  const c = canvas(box, label);
  const most = roundUp(Math.max(...bars.map((bar) => bar[1])));
  c.left = 12 + 7 * short(most).length;
  const labelAxis = grid(c, most, "");
  const step = (c.right - c.left) / bars.length;
  const wide = Math.min(44, Math.max(2, step * 0.72));
  const every = Math.ceil(26 / step);
  bars.forEach(([name, value], index) => {
    const middle = c.left + step * (index + 0.5);
    const tall = Math.max(value ? 1.5 : 0, (value / most) * (c.bottom - c.top));
    const bar = svg("rect", {class: "f1", x: middle - wide / 2, y: c.bottom - tall, width: wide, height: tall, rx: Math.min(2, wide / 2)});
    bar.append(svg("title", {}, `${name} rows: ${whole(value)} batches`));
    c.root.append(bar);
    if (index % every === 0) c.root.append(svg("text", {x: middle, y: c.height - 3, "text-anchor": "middle"}, String(name)));
  });
  labelAxis();
  replaceWith(box, c.root);
}

// The learnt cost by rows, on a logarithmic axis of rows, with the size in use and the point at which it runs now.
function costChart(box, points, at, useful, mostRows) {
  if (!points.length) { empty(box, "Nothing learnt yet"); return; }
  const end = Math.max(2, mostRows || 1, points[points.length - 1][0], at ? at[0] : 1);
  const most = roundUp(Math.max(...points.map((point) => point[1]), at ? at[1] : 0));
  const now = at ? `; now ${short(at[0])} rows in ${short(at[1])} ms` : "";
  const c = canvas(box, `Milliseconds of a run by rows: ${points.map((p) => `${short(p[0])} rows ${short(p[1])} ms`).join(", ")}${now}`);
  const labelAxis = grid(c, most, "ms");
  const x = (rows) => c.left + 6 + (Math.log2(Math.max(1, rows)) / Math.log2(end)) * (c.right - c.left - 12);
  const y = (ms) => c.bottom - (ms / most) * (c.bottom - c.top);
  const ticks = Math.floor(Math.log2(end)), every = Math.ceil((ticks * 34) / (c.right - c.left));
  for (let power = 0; power <= ticks; power += Math.max(1, every)) {
    c.root.append(svg("text", {x: x(2 ** power), y: c.height - 3, "text-anchor": power === 0 ? "start" : 2 ** power === end ? "end" : "middle"}, power === 0 ? "1 row" : String(2 ** power)));
  }
  c.root.append(svg("path", {class: "line k1", d: points.map((p, i) => `${i ? "L" : "M"}${x(p[0]).toFixed(1)} ${y(p[1]).toFixed(1)}`).join("")}));
  for (const [rows, ms] of points) c.root.append(svg("circle", {class: "f1", cx: x(rows), cy: y(ms), r: 2}));
  if (mostRows > 1) {
    c.root.append(svg("line", {class: "mark", x1: x(useful), x2: x(useful), y1: c.bottom, y2: c.top - 6}));
    c.root.append(svg("text", {x: x(useful) - 5, y: c.bottom - 6, "text-anchor": "end"}, `most in use ${useful}`));
  }
  labelAxis();
  if (at) {
    const [px, py] = [x(at[0]), y(at[1])];
    c.root.append(svg("line", {class: "rule", x1: px, x2: px, y1: c.bottom, y2: py}));
    c.root.append(svg("circle", {class: "halo", cx: px, cy: py, r: 8}), svg("circle", {class: "f2", cx: px, cy: py, r: 5}));
    const isRight = px > (c.left + c.right) / 2;
    c.root.append(svg("text", {class: "strong", x: px + (isRight ? -12 : 12), y: Math.max(c.top, py - 9), "text-anchor": isRight ? "end" : "start"}, `${short(at[0])} rows, ${short(at[1])} ms`));
  }
  replaceWith(box, c.root);
}

// Parts of a whole as one bar and a table. `parts` is [[name, value, meaning]].
function stackBar(parts, unit, label, isCompact) {
  const total = parts.reduce((sum, part) => sum + part[1], 0);
  const bar = html("div", {class: "stack", role: "img", "aria-label": `${label}: ${parts.map((p) => `${p[0]} ${short(p[1])} ${unit}`).join(", ")}`});
  const table = html("tbody"), legend = html("p", {class: "legend"});
  parts.forEach(([name, value, meaning], index) => {
    const piece = html("span", {class: `c${index + 1}`});
    piece.style.flexGrow = String(total ? value / total : 0);
    piece.style.flexBasis = "0";
    bar.append(piece);
    legend.append(html("span", {}, html("i", {class: `key c${index + 1}`}), `${name} `, html("b", {}, `${short(value)} ${unit}`)));
    table.append(html("tr", {},
      html("td", {}, html("i", {class: `key c${index + 1}`}), name, meaning ? html("span", {class: "faint"}, ` ${meaning}`) : null),
      html("td", {class: "number"}, `${short(value)} ${unit}`)));
  });
  return [bar, isCompact ? legend : html("table", {}, table)];
}
