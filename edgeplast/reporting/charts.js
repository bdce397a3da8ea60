// Draws the charts of a page (charts.py) with uPlot, as wide as there is room, again when that changes or it is printed.
"use strict";
(() => {
  const FONT = "12px system-ui, sans-serif", INK = "#222", GRID = "#e6e6e6";
  const number = (v) => (v == null ? "" : `: ${+v.toPrecision(4)}`); // in the legend, of where the pointer is

  // What uPlot has no word for: marks, dots of their own size, words at a point.
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
      const words = (text, x, y, colour, align) => {
        c.font = FONT.replace("12", 12 * r);
        c.textAlign = align; c.textBaseline = "middle";
        c.lineWidth = 4 * r; c.strokeStyle = "rgba(255,255,255,.85)"; c.setLineDash([]); // readable over curves
        c.strokeText(text, x, y);
        c.fillStyle = colour; c.fillText(text, x, y);
      };
      c.save();
      for (const m of chart.marks) stroke(m.colour, m.is_dashed, [X(m.x), top], [X(m.x), top + height]);
      for (const line of chart.lines) {
        c.fillStyle = line.colour + "cc";
        line.sizes.forEach((size, i) => {
          c.beginPath(); c.arc(X(line.x[i]), Y(line.y[i]), size * r / 2, 0, 7); c.fill();
        });
      }
      for (const n of chart.notes) { // below the point: a level may run through it
        words(n.text, X(n.x) + (n.is_left ? -5 : 5) * r, Y(n.y) + 14 * r, n.colour, n.is_left ? "right" : "left");
      }
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
    const axes = [
      { ...axis, label: chart.x_label, grid: { show: false }, size: 34, labelSize: 22 },
      { ...axis, label: chart.y_label, size: 50, labelSize: 22 },
    ];
    if (chart.second_label) {
      axes.push({ ...axis, label: chart.second_label, scale: "second", side: 1, grid: { show: false }, size: 50, labelSize: 22 });
    }
    return {
      width,
      height: chart.pixels,
      scales: { x: { time: false, range: () => chart.x_range }, y: { range: () => chart.y_range } },
      series: [{ label: chart.x_label, value: (_, v) => number(v) }, ...series, ...levels],
      axes,
      legend: { markers: { width: 2, fill: "none", dash: (u, i) => (u.series[i].dash ? "dashed" : "solid") } },
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
