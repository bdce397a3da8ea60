// Draws the charts of a page (charts.py) with uPlot, as wide as there is room, again when that changes or it is printed.
"use strict";
(() => {
  const FONT = "12px system-ui, sans-serif", INK = "#222", GRID = "#e6e6e6";
  const number = (v) => (v == null ? "" : `: ${+v.toPrecision(4)}`); // in the legend, of where the pointer is

  const measured = (text) => {
    const c = (measured.on ??= document.createElement("canvas").getContext("2d"));
    c.font = FONT;
    return c.measureText(text).width;
  };
  const cut = (text, room) => {
    if (measured(text) <= room) return text;
    while (text && measured(text + "…") > room) text = text.slice(0, -1);
    return text + "…";
  };

  // What uPlot has no word for: marks, strokes, dots of their own size, words at a point.
  function extras(chart) {
    return (u) => {
      const c = u.ctx, r = devicePixelRatio, { left, top, width, height } = u.bbox;
      const X = (v) => u.valToPos(v, "x", true), Y = (v) => u.valToPos(v, "y", true);
      const stroke = (colour, dashed, from, to) => {
        c.strokeStyle = colour;
        c.lineWidth = 1.2 * r;
        c.setLineDash(dashed ? [5 * r, 4 * r] : []);
        c.beginPath(); c.moveTo(...from); c.lineTo(...to); c.stroke();
      };
      const taken = chart.lines.flatMap((line) => line.sizes.map((size, i) => // dots are no place for words
        [X(line.x[i]) - size * r / 2, Y(line.y[i]), size * r]));
      const words = (text, x, y, colour, toLeft) => {
        c.font = FONT.replace("12", 12 * r);
        c.textAlign = "left"; c.textBaseline = "middle";
        const wide = c.measureText(text).width, most = left + width - wide;
        const places = [];
        for (const up of [14, -14, 28, -28, 42, -42, 56, -56, 70, -70]) { // below the point: a level may run through it
          for (const side of toLeft ? [-1, 1] : [1, -1]) places.push([x + (side < 0 ? -5 * r - wide : 5 * r), y + up * r]);
        }
        const free = ([a, b]) => a >= left && a <= most && b > top + 6 * r && b < top + height - 4 * r
          && !taken.some(([p, q, w]) => a < p + w && p < a + wide && Math.abs(b - q) < 13 * r);
        [x, y] = places.find(free) ?? [Math.min(places[0][0], most), places[0][1]];
        taken.push([x, y, wide]);
        c.lineWidth = 4 * r; c.strokeStyle = "rgba(255,255,255,.85)"; c.setLineDash([]); // readable over curves
        c.strokeText(text, x, y);
        c.fillStyle = colour; c.fillText(text, x, y);
      };
      c.save();
      for (const m of chart.marks) stroke(m.colour, m.is_dashed, [X(m.x), top], [X(m.x), top + height]);
      for (const s of chart.spans) {
        c.lineWidth = s.width * r; c.strokeStyle = s.colour; c.setLineDash([]);
        c.beginPath(); c.moveTo(X(s.x[0]), Y(s.y[0])); c.lineTo(X(s.x[1]), Y(s.y[1])); c.stroke();
      }
      for (const line of chart.lines) {
        c.fillStyle = line.is_hollow ? "#fff" : line.colour + "cc";
        c.strokeStyle = line.colour; c.lineWidth = 1.6 * r; c.setLineDash([]);
        line.sizes.forEach((size, i) => {
          c.beginPath(); c.arc(X(line.x[i]), Y(line.y[i]), size * r / 2, 0, 7); c.fill();
          if (line.is_hollow) c.stroke();
        });
      }
      for (const n of chart.notes) words(cut(n.text, 0.4 * width / r), X(n.x), Y(n.y), n.colour, n.is_left);
      c.restore();
    };
  }

  function options(chart, width) {
    const axis = { font: FONT, labelFont: FONT, stroke: INK, grid: { stroke: GRID, width: 1 }, ticks: { show: false } };
    const series = chart.lines.map((line) => ({
      label: line.label || "\u00a0",
      scale: line.is_second ? "second" : "y",
      stroke: line.is_faint ? line.colour + "59" : line.colour,
      fill: line.is_filled ? line.colour + "1f" : undefined,
      width: line.width,
      dash: line.is_dashed ? [5, 4] : undefined,
      paths: line.width ? undefined : () => null,
      points: { show: line.dots > 0, size: line.dots, fill: line.colour },
      spanGaps: true,
      value: (_, v) => number(v),
    }));
    const levels = chart.levels.map((level) => ({ // named in the legend, where no curve runs through the name
      label: level.label,
      stroke: level.colour,
      width: 1.2,
      dash: level.is_dashed ? [5, 4] : undefined,
      points: { show: false },
      spanGaps: true,
      value: () => number(level.value),
    }));
    const isWhole = chart.lines.every((line) => line.x.every(Number.isInteger)); // steps: there is no half of one
    const incrs = isWhole ? [...Array(10).keys()].flatMap((i) => [1, 2, 5].map((n) => n * 10 ** i)) : undefined;
    const axes = [
      { ...axis, label: chart.x_label, incrs, grid: { show: false }, size: 34, labelSize: 22 },
      { ...axis, label: chart.y_label, size: 50, labelSize: 22 },
    ];
    const { rows } = chart;
    if (rows.length) {
      const size = (u) => Math.min(0.4 * u.width, Math.max(...rows.map(measured)) + 14);
      const splits = () => rows.map((_, i) => i), values = (u) => rows.map((name) => cut(name, size(u) - 10));
      axes[1] = { ...axis, grid: { show: false }, size, splits, values };
    }
    if (chart.second_label) {
      axes.push({ ...axis, label: chart.second_label, scale: "second", side: 1, grid: { show: false }, size: 50, labelSize: 22 });
    }
    return {
      width,
      height: chart.pixels,
      scales: {
        x: { time: false, distr: chart.is_log ? 3 : 1, range: () => chart.x_range },
        y: { range: () => chart.y_range, dir: rows.length ? -1 : 1 },
      },
      series: [{ label: chart.x_label, value: (_, v) => number(v) }, ...series, ...levels],
      axes,
      legend: { show: [...chart.lines, ...chart.levels].some((line) => line.label), markers: { width: 2, fill: "none", dash: (u, i) => (u.series[i].dash ? "dashed" : "solid") } },
      cursor: { drag: { x: false, y: false } },
      hooks: { draw: [extras(chart)] },
    };
  }

  const drawn = [];
  for (const place of document.querySelectorAll(".chart")) {
    const chart = JSON.parse(place.firstElementChild.textContent);
    const levels = chart.levels.map((level) => [chart.x_range, [level.value, level.value]]);
    const data = uPlot.join([...chart.lines.map((line) => [line.x, line.y]), ...levels]);
    drawn.push([new uPlot(options(chart, place.clientWidth), data, place), place, chart]);
  }
  const fit = () => drawn.forEach(([plot, place, chart]) => plot.setSize({ width: place.clientWidth, height: chart.pixels }));
  addEventListener("resize", fit);
  addEventListener("beforeprint", fit);
  addEventListener("afterprint", fit);
})();
