// Names the pairs of a figure's parts that overlap, and the parts that leave the figure.
(gd) => {
  const TOLERANCE = 2; // px
  const parts = [
    "gtitle", "legend", "xtitle", "ytitle", "g-xtitle", "g-ytitle",
    "slider-container", "updatemenu-container", "colorbar",
  ];
  const boxes = [];
  const add = (name, nodes) => {
    for (const [i, node] of [...nodes].entries()) {
      const box = node.getBoundingClientRect();
      if (box.width && box.height) boxes.push({ name: `${name}[${i}]`, node, box });
    }
  };
  for (const part of parts) {
    // Plotly nests text.xtitle in g.g-xtitle: the innermost one is enough.
    if (part.startsWith("g-") && gd.querySelector(`.${part.slice(2)}`)) continue;
    add(part, gd.querySelectorAll(`.${part}`));
  }
  add("tick", gd.querySelectorAll(".xtick > text, .ytick > text"));
  add("annotation", gd.querySelectorAll(".annotation-text-g"));

  const frame = gd.getBoundingClientRect();
  const faults = [];
  for (const { name, box, node } of boxes) {
    const out = Math.max(frame.left - box.left, box.right - frame.right, frame.top - box.top, box.bottom - frame.bottom);
    if (out > TOLERANCE) faults.push(`${name} "${node.textContent.slice(0, 30)}" leaves the figure by ${Math.round(out)} px`);
  }
  for (let i = 0; i < boxes.length; i++) {
    for (let j = i + 1; j < boxes.length; j++) {
      const [a, b] = [boxes[i], boxes[j]];
      if (a.node.contains(b.node) || b.node.contains(a.node)) continue;
      const wide = Math.min(a.box.right, b.box.right) - Math.max(a.box.left, b.box.left);
      const high = Math.min(a.box.bottom, b.box.bottom) - Math.max(a.box.top, b.box.top);
      if (wide > TOLERANCE && high > TOLERANCE) {
        faults.push(`${a.name} "${a.node.textContent.slice(0, 20)}" overlaps ${b.name} "${b.node.textContent.slice(0, 20)}"`);
      }
    }
  }
  return faults.slice(0, 10);
}
