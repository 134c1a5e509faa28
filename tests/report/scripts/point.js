// Returns where on the screen the middle point of a figure's first visible trace lies: [x, y] in px.
(gd) => {
  const trace = gd._fullData.find((t) => t.visible === true && t.x?.length);
  const axis = (name) => gd._fullLayout[name.replace(/^(.)/, "$1axis")];
  const [xaxis, yaxis] = [axis(trace.xaxis), axis(trace.yaxis)];
  const middle = Math.floor(trace.x.length / 2);
  const box = gd.getBoundingClientRect();
  return [
    box.left + xaxis._offset + xaxis.d2p(trace.x[middle]),
    box.top + yaxis._offset + yaxis.d2p(trace.y[middle]),
  ];
}
