// Where a figure's axes and marks are: the type of each axis, places of its first ticks, of the first trace and of marks.
(gd) => {
  const layout = gd._fullLayout;
  const axes = Object.keys(layout).filter((name) => /^[xy]axis\d*$/.test(name));
  const x = layout.xaxis;
  const place = (value) => Math.round(layout.xaxis._offset + x.l2p(value));
  return {
    types: Object.fromEntries(axes.map((name) => [name, layout[name].type])),
    ticks: x._vals.filter((tick) => tick.text !== "").map((tick) => [tick.text, Math.round(x._offset + x.l2p(tick.x))]),
    first: Math.round(x._offset + x.c2p(gd._fullData[0]?.x?.[0])),
    points: gd.querySelectorAll(".scatterlayer .trace:first-child .point").length,
    marks: (layout.shapes || []).filter((s) => s.type === "line" && s.xref === "x").map((s) => [s.x0, place(s.x0)]),
    lines: [...gd.querySelectorAll(".shapelayer path[data-index]")].map((node) => {
      const shape = layout.shapes[Number(node.dataset.index)];
      const box = node.getBoundingClientRect();
      const left = gd.getBoundingClientRect().left;
      return [shape.type, shape.xref, shape.x0, Math.round(box.left + box.width / 2 - left)];
    }).filter(([type, ref]) => type === "line" && ref === "x").map(([, , x0, px]) => [x0, px]),
  };
}
