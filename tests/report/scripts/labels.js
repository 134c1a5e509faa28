// Texts of a plotly figure that touch its marks or each other, or leave the window.
(gd) => {
  const box = (e) => e.getBoundingClientRect();
  const marks = [...gd.querySelectorAll('.scatterlayer .points path')].map(box).filter((b) => b.width > 0);
  const texts = [...gd.querySelectorAll('.scatterlayer .textpoint text, .annotation-text, .legendtext, .gtitle')];
  const bars = [...gd.querySelectorAll('.errorbars path')].map(box);
  const shown = texts.filter((t) => t.textContent.trim() && box(t).width > 0);
  const touch = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
  const ink = (t) => { // spaces before a label that stands beside its own point are no ink
    const range = document.createRange();
    const first = document.createTreeWalker(t, NodeFilter.SHOW_TEXT).nextNode();
    range.selectNodeContents(t);
    range.setStart(first, first.data.search(/\S|$/));
    return range.getBoundingClientRect();
  };
  const at = shown.map((t) => [t.textContent, ink(t)]);
  const over = at.flatMap(([text, a]) => [...marks, ...bars].filter((b) => touch(a, b)).map(() => text));
  const pairs = at.flatMap(([text, a], i) => at.slice(i + 1).filter(([, b]) => touch(a, b)).map(([b]) => text + ' / ' + b));
  const out = at.filter(([, a]) => a.left < -1 || a.right > window.innerWidth + 1).map(([text]) => text);
  return { texts: at.length, marks: marks.length, over, pairs, out };
}
