// Names the texts of tables that are cut: they leave the screen, their box that scrolls, or their own cell.
() => {
  const faults = [];
  const screen = document.documentElement.clientWidth;
  for (const box of document.querySelectorAll(".scroll")) {
    if (!box.getClientRects().length) continue;
    if (box.scrollWidth > box.clientWidth + 1) faults.push(`${box.getAttribute("aria-label")} scrolls`);
    const frame = box.getBoundingClientRect();
    for (const cell of box.querySelectorAll("td, tbody th")) {
      const range = document.createRange();
      range.selectNodeContents(cell);
      for (const rect of range.getClientRects()) {
        if (rect.width && (rect.right > Math.min(screen, frame.right) + 1 || rect.left < frame.left - 1)) {
          faults.push(`"${cell.textContent.trim().slice(0, 30)}" ends at ${Math.round(rect.right)} of ${Math.round(frame.right)}`);
          break;
        }
      }
    }
  }
  return faults.slice(0, 10);
}
