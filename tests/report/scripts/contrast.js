// Names the texts whose contrast with what lies behind them is below `least` (WCAG's ratio).
(least) => {
  const rgba = (css) => {
    const numbers = (css.match(/[\d.]+/g) ?? [0, 0, 0, 0]).map(Number);
    return numbers.length < 4 ? [...numbers, 1] : numbers;
  };
  const over = ([r, g, b, a], ground) => [r, g, b].map((v, i) => v * a + ground[i] * (1 - a));
  const luminance = (rgb) => {
    const [r, g, b] = rgb.map((v) => ((v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (node) => {
    const layers = [];
    for (let n = node; n; n = n.parentElement) {
      const color = rgba(getComputedStyle(n).backgroundColor);
      if (color[3]) layers.push(color);
      if (color[3] === 1) break;
    }
    const page = getComputedStyle(document.documentElement).colorScheme.includes("dark") ? [0, 0, 0] : [255, 255, 255];
    return layers.reduceRight((under, layer) => over(layer, under), page);
  };
  const ratio = (fore, node) => {
    const behind = ground(node);
    const [high, low] = [luminance(over(fore, behind)), luminance(behind)].sort((a, b) => b - a);
    return (high + 0.05) / (low + 0.05);
  };
  const faults = [];
  const check = (node, css) => {
    if (!node.textContent.trim() || !node.getClientRects().length || node.closest(".modebar")) return;
    const found = ratio(rgba(css), node);
    if (found < least) faults.push(`${node.tagName} "${node.textContent.trim().slice(0, 30)}" has ${found.toFixed(2)}`);
  };
  for (const node of document.querySelectorAll("h1, h2, h3, p, li, td, th, summary, a, figcaption, code")) {
    check(node, getComputedStyle(node).color);
  }
  const labels = ".gtitle, .xtitle, .ytitle, .xtick > text, .ytick > text, .legendtext, .slider-label";
  for (const gd of document.querySelectorAll(".js-plotly-plot")) {
    // The plotting area lies behind no label that stands outside of it, so the figure's own ground counts.
    for (const node of gd.querySelectorAll(labels)) check(node, getComputedStyle(node).fill);
  }
  return faults.slice(0, 10);
}
