// Draws the figures, drives them, and lists the prompts. Strings of the study reach the page only as text.
(() => {
  "use strict";
  const root = document.documentElement;
  let figures = {};
  const coarse = matchMedia("(pointer: coarse)").matches;
  const config = { responsive: true, displaylogo: false, displayModeBar: coarse ? false : "hover", modeBarButtons: [["toImage", "resetScale2d"]] };
  const BOTTOM = 96; // axis labels, axis title and one row of legend
  const make = (tag, props = {}, ...children) => {
    const node = Object.assign(document.createElement(tag), props);
    node.append(...children);
    return node;
  };

  // --- what the page carries is packed: base64 of gzip ---
  const unpacked = (node) => {
    const packed = atob(node.textContent.trim());
    const bytes = new Uint8Array(packed.length);
    for (let i = 0; i < packed.length; i++) bytes[i] = packed.charCodeAt(i);
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip")));
  };

  // --- theme: the page's colours are the figures' colours ---
  const css = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const colours = () => ({
    "font.color": css("--ink"),
    "paper_bgcolor": css("--surface"), // plotly backs its hover line with it
    "hoverlabel.bgcolor": css("--surface"),
    "hoverlabel.bordercolor": css("--line"),
    "hoverlabel.font.color": css("--ink"),
    "modebar.bgcolor": "rgba(0,0,0,0)",
    "modebar.color": css("--muted"),
    "modebar.activecolor": css("--ink"),
  });
  const drawn = () => [...document.querySelectorAll(".plot.js-plotly-plot")];
  const recolour = () => drawn().forEach((plot) => Plotly.relayout(plot, colours()));
  const button = document.getElementById("theme");
  const THEMES = { auto: "◐", light: "☀", dark: "☾" };
  const NAMES = Object.keys(THEMES);
  let theme = "auto";
  try { theme = localStorage.getItem("xmi-theme") || "auto"; } catch { /* storage may be barred on file pages */ }
  const setTheme = (name) => {
    theme = name in THEMES ? name : "auto";
    if (theme === "auto") delete root.dataset.theme; else root.dataset.theme = theme;
    button.replaceChildren(make("span", { textContent: THEMES[theme] }), " ", make("span", { className: "word", textContent: theme }));
    button.setAttribute("aria-label", `Colour theme: ${theme === "auto" ? "automatic" : theme}`);
    try { localStorage.setItem("xmi-theme", theme); } catch { /* see above */ }
    recolour();
  };
  button.addEventListener("click", () => setTheme(NAMES[(NAMES.indexOf(theme) + 1) % NAMES.length]));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
  // On paper nothing is folded but the lists of prompts, which would fill thousands of pages.
  let before = theme;
  let unfolded = [];
  addEventListener("beforeprint", () => {
    before = theme;
    setTheme("light");
    unfolded = [...document.querySelectorAll("main details:not([open], .drill, .task, .whole)")];
    unfolded.forEach((details) => { details.open = true; });
    panels.forEach((panel) => panel.showAll());
  });
  addEventListener("afterprint", () => {
    unfolded.forEach((details) => { details.open = false; });
    setTheme(before);
  });

  // --- figures: title, slider and menu of plotly become HTML, which wraps, can be tabbed to, and serves a pair at once ---
  const lift = (figure) => {
    const layout = figure.layout;
    const margin = (layout.margin = { ...layout.template?.layout?.margin, ...layout.margin });
    const steps = layout.sliders?.[0]?.steps;
    const buttons = layout.updatemenus?.[0]?.buttons;
    figure.subtitle = layout.meta?.subtitle || "";
    figure.active = layout.sliders?.[0]?.active || 0;
    figure.slider = steps || [];
    figure.menu = buttons || [];
    layout.annotations = (layout.annotations || []).filter((a) => a.name !== "subtitle");
    const top = figure.data[0]?.colorbar ? 48 : layout.annotations?.length ? 30 : 20; // room for half a tick label
    figure.area = layout.height - margin.t - (steps ? 100 + (figure.data[0]?.colorbar ? 30 : 0) : 0) - BOTTOM;
    layout.height = figure.area + top + BOTTOM;
    margin.t = top;
    delete layout.title;
    delete layout.sliders;
    delete layout.updatemenus;
    if (coarse) layout.dragmode = false; // a finger that scrolls the page must not zoom a figure
  };
  // Over relative depth 0 is the embedding and 1 the last layer: the same data under other ticks, on one range for all.
  const LAYERS = "layer (residual after block)";
  const overDepth = (figure, relative) => {
    const changes = {}, count = figure.layout.meta.layers;
    for (const [name, axis] of Object.entries(figure.layout)) {
      if (!/^xaxis\d*$/.test(name)) continue;
      const ticks = [0, 0.25, 0.5, 0.75, 1];
      changes[`${name}.range`] = relative ? [-0.04 * count - 1, 1.04 * count - 1] : axis.range ?? null;
      if (!relative && !axis.range) changes[`${name}.autorange`] = true;
      changes[`${name}.tickmode`] = relative ? "array" : axis.tickmode ?? null;
      changes[`${name}.tickvals`] = relative ? ticks.map((d) => d * count - 1) : axis.tickvals ?? null;
      changes[`${name}.ticktext`] = relative ? ticks.map(String) : axis.ticktext ?? null;
      if (axis.title?.text === LAYERS) changes[`${name}.title.text`] = relative ? "relative depth (0 embedding, 1 last layer)" : LAYERS;
    }
    return changes;
  };
  const plain = (text) => new DOMParser().parseFromString(text, "text/html").documentElement.textContent;
  const apply = (plot, step) => Plotly.update(plot, structuredClone(step.args[0]), structuredClone(step.args[1] || {}), step.args[2]);

  // A legend that wraps on a narrow screen makes the figure longer; the plot itself keeps its height.
  // Plotly bounds a legend by the figure's height, so a long one needs several rounds.
  const fit = async (plot) => {
    for (let round = 0; round < 5; round++) {
      const { _size: size, height } = plot._fullLayout;
      const missing = Math.round(figures[plot.dataset.figure].area - size.h);
      if (Math.abs(missing) <= 4) return;
      await Plotly.relayout(plot, { height: height + missing });
    }
  };

  // What a legend entry stands for; a click on it acts on all figures of the panel.
  const keyOf = (item) => item.legendgroup || (item.showlegend === false ? "" : item.name || "");
  const keysOf = (trace) => [keyOf(trace), ...(Array.isArray(trace.meta) ? trace.meta : [])];
  const panels = [];

  class Panel {
    constructor(node) {
      this.node = node;
      this.variant = 0;
      this.step = null;
      this.choice = 0;
      this.relative = false;
      this.plots = [...node.querySelectorAll(".plot")];
      for (const plot of this.plots) {
        const figure = figures[plot.dataset.figure];
        lift(figure);
        plot.previousElementSibling.querySelector(".subtitle").textContent = plain(figure.subtitle);
      }
      // What a figure shows on demand only is hidden at first.
      const later = this.plots.flatMap((plot) => figures[plot.dataset.figure].data.filter((t) => t.visible === "legendonly"));
      this.first = new Set(later.map(keyOf));
      this.hidden = new Set(this.first);
      this.addControls(node.querySelector(".controls"));
      for (const radio of node.querySelectorAll(".segmented input")) {
        radio.addEventListener("change", () => this.show(Number(radio.value)));
      }
    }
    addControls(bar) {
      const first = figures[this.plots[0].dataset.figure];
      const title = this.node.querySelector("h3").textContent;
      if (first.slider.length) {
        this.step = first.active;
        const name = (i) => `layer ${plain(first.slider[i].label)}`;
        const output = make("output", { textContent: name(this.step) });
        const range = make("input", { type: "range", min: 0, max: first.slider.length - 1, step: 1, value: this.step });
        range.setAttribute("aria-label", `Layer: ${title}`);
        range.addEventListener("input", () => {
          this.step = Number(range.value);
          output.textContent = name(this.step);
          range.setAttribute("aria-valuetext", name(this.step));
          this.visible().forEach((plot) => this.update(plot));
        });
        bar.append(make("div", { className: "range" }, output, range));
      }
      if (first.menu.length) {
        const select = make("select", {}, ...first.menu.map((b, i) => make("option", { value: i, textContent: plain(b.label) })));
        select.addEventListener("change", () => {
          this.choice = Number(select.value);
          this.visible().forEach((plot) => this.update(plot));
        });
        bar.append(make("label", {}, "Task", select));
      }
      if (this.plots.some((plot) => figures[plot.dataset.figure].layout.meta?.layers)) {
        const box = make("input", { type: "checkbox", className: "depth" });
        box.addEventListener("change", () => {
          this.relative = box.checked;
          this.visible().forEach((plot) => this.update(plot));
        });
        bar.append(make("label", {}, box, " relative depth"));
      }
    }
    visible() {
      return this.plots.filter((plot) => Number(plot.closest(".pair").dataset.variant) === this.variant);
    }
    update(plot) {
      const figure = figures[plot.dataset.figure];
      if (!plot.dataset.drawn) return;
      const state = `${this.step}/${this.choice}`;
      const moved = plot.dataset.state !== state;
      if (moved) {
        plot.dataset.state = state;
        const step = figure.slider[Math.min(this.step, figure.slider.length - 1)];
        if (step) apply(plot, step);
        const wanted = figure.menu[this.choice];
        if (wanted) apply(plot, wanted);
      }
      if (figure.layout.meta?.layers && plot.dataset.relative !== String(this.relative)) {
        plot.dataset.relative = this.relative;
        Plotly.relayout(plot, overDepth(figure.given, this.relative));
      }
      const hidden = [...this.hidden].sort().join("\n");
      if ((moved && hidden) || plot.dataset.hidden !== hidden) {
        plot.dataset.hidden = hidden;
        this.conceal(plot);
      }
    }
    // Legends act on all figures of the panel, those of other views when they are shown.
    link(plot) {
      let timer = null;
      const clicked = (event) => {
        const item = event.node.__data__?.[0]?.trace; // of a shape's entry the event names another trace
        return keyOf(item?._isShape ? item : event.fullData[event.curveNumber]);
      };
      plot.on("plotly_legendclick", (event) => {
        const key = clicked(event);
        const second = timer;
        clearTimeout(timer);
        timer = second ? null : setTimeout(() => { // a second click means this entry alone, as is said below
          timer = null;
          if (!this.hidden.delete(key)) this.hidden.add(key);
          this.concealAll();
        }, 250);
        return false;
      });
      plot.on("plotly_legenddoubleclick", (event) => {
        const key = clicked(event);
        clearTimeout(timer);
        timer = null;
        const others = new Set(this.visible().flatMap((p) => [...p._fullData, ...(p.layout.shapes || [])].map(keyOf)));
        others.delete(key);
        others.delete("");
        const alone = !this.hidden.has(key) && [...others].every((k) => this.hidden.has(k));
        this.hidden = alone ? new Set(this.first) : others;
        this.concealAll();
        return false;
      });
    }
    concealAll() {
      this.visible().forEach((plot) => this.update(plot));
    }
    conceal(plot) {
      const shown = (keys) => (keys.some((key) => this.hidden.has(key)) ? "legendonly" : true);
      const layout = {};
      (plot.layout.shapes || []).forEach((shape, i) => { layout[`shapes[${i}].visible`] = shown([keyOf(shape)]); });
      return Plotly.update(plot, { visible: plot._fullData.map((trace) => shown(keysOf(trace))) }, layout);
    }
    async draw(plot) {
      if (plot.dataset.drawn) return;
      plot.dataset.drawn = "true";
      const figure = figures[plot.dataset.figure];
      plot.dataset.hidden = [...this.first].sort().join("\n");
      plot.dataset.relative = "false";
      figure.given ??= { layout: structuredClone(figure.layout) }; // plotly changes what it is given
      plot.dataset.state = `${figure.slider.length ? figure.active : null}/0`;
      const drawing = Plotly.newPlot(plot, figure.data, figure.layout, config);
      this.link(plot);
      await drawing;
      await Plotly.relayout(plot, colours());
      await fit(plot);
      this.update(plot);
      plot.dataset.drawn = "done";
    }
    async showAll() {
      await Promise.all(this.visible().map((plot) => this.draw(plot)));
    }
    async show(variant) {
      this.variant = variant;
      for (const pair of this.node.querySelectorAll(".pair")) pair.hidden = Number(pair.dataset.variant) !== variant;
      for (const plot of this.visible()) {
        await this.draw(plot);
        await Plotly.Plots.resize(plot); // the window may have changed while it was hidden
        await fit(plot);
        this.update(plot);
      }
    }
  }

  // Figures are drawn where they are seen: in panels that are open, and when one is opened.
  const drawAll = async () => {
    try {
      const [plotly, found] = await Promise.all(["plotly", "figures"].map((id) => unpacked(document.getElementById(id)).text()));
      document.head.append(make("script", { textContent: plotly }));
      figures = JSON.parse(found);
    } catch (error) {
      for (const node of document.querySelectorAll(".panel .controls")) {
        node.append(make("p", { className: "note", textContent: `The figures cannot be unpacked in this browser (${error}).` }));
      }
      return;
    }
    panels.push(...[...document.querySelectorAll(".panel")].map((node) => new Panel(node)));
    for (const panel of panels) panel.node.addEventListener("toggle", () => panel.node.open && panel.show(panel.variant));
    for (const panel of panels.filter((p) => p.node.open)) await panel.showAll();
    root.dataset.ready = "true";
    let timer;
    addEventListener("resize", () => {
      clearTimeout(timer);
      timer = setTimeout(() => panels.filter((p) => p.node.open).flatMap((panel) => panel.visible()).forEach(fit), 400);
    });
  };

  // --- prompts and answers ---
  const PAGE = 25;
  let pending = null;
  let all = null;
  const unpack = () => {
    pending ??= (async () => {
      const lists = new Map();
      const images = await unpacked(document.getElementById("pictures")).json();
      for (const node of document.querySelectorAll("script.block")) {
        const block = { strings: [], prompt: [], layers: [], image: [] };
        for (const part of await unpacked(node).json()) {
          if (Array.isArray(part)) {
            const [number, ...entry] = part;
            if (!lists.has(number)) lists.set(number, []);
            lists.get(number).push({ block, entry });
          } else if (typeof part === "string") block.strings.push(part);
          else for (const [kind, value] of Object.entries(part)) block[kind].push(value);
        }
      }
      all = { lists, images };
    })();
    return pending;
  };
  const mark = (hit) => make("span", { className: `mark ${hit ? "hit" : "miss"}`, textContent: hit ? "✓" : "✗", title: hit ? "hit" : "miss" });
  const quote = (text) => make("bdi", { textContent: `“${text}”` });
  const promptNode = (block, segments) => {
    // Blank lines part the examples; each becomes a block of its own, so that a prompt reads in few lines.
    let part = make("span", { dir: "auto" });
    const node = make("div", { className: "prompt" }, part);
    for (const segment of segments) {
      if (segment < 0) {
        const name = block.image[~segment];
        const src = all.images[name];
        part.append(src ? make("img", { src, alt: `image ${name}`, title: name }) : `[image ${name}]`);
        continue;
      }
      block.strings[segment].split("\n\n").forEach((text, i) => {
        if (i && part.hasChildNodes()) node.append((part = make("span", { dir: "auto" })));
        if (text) part.append(text);
      });
    }
    if (!part.hasChildNodes() && node.childElementCount > 1) part.remove();
    return node;
  };
  const layersNode = ({ block, entry }, chosen) => {
    const [, , , predicted, logp, rank, paper, layers] = entry;
    return make("ol", { className: "layers" }, ...predicted.map((word, i) => {
      const layer = block.layers[layers][i];
      const hit = paper[i] === "1";
      const item = make("li", { className: hit ? "hit" : "miss" }, make("span", { className: "small", textContent: `layer ${layer} ` }), mark(hit), " ", quote(block.strings[word]));
      if (layer === chosen) item.classList.add("chosen");
      item.title = `log-probability of the label ${logp[i]} nats, rank ${rank[i]}${layer === chosen ? "; chosen on validation" : ""}`;
      return item;
    }));
  };
  const isHit = ({ block, entry }, chosen) => {
    const [, , , predicted, , , paper, last] = entry; // the last are layers, or the strict score
    if (!Array.isArray(predicted)) return Boolean(paper);
    return predicted.some((_, i) => paper[i] === "1" && (chosen === null || block.layers[last][i] === chosen));
  };
  const answerNode = (answer, chosen) => {
    const { block, entry } = answer;
    const [prompt, label, seed, predicted, logp, rank, , last] = entry;
    const swept = Array.isArray(predicted);
    const hit = isHit(answer, chosen);
    const verdict = make("div", { className: "verdict" }, mark(hit), " label ", quote(block.strings[label]));
    if (!swept) verdict.append(", answer ", quote(block.strings[predicted]), make("span", { className: "small", textContent: ` log-probability of the label ${logp} nats, rank ${rank}, strict ${last ? "✓" : "✗"}` }));
    if (seed !== null) verdict.append(make("span", { className: "small", textContent: ` · seed ${seed}` }));
    const node = make("div", { className: `answer ${hit ? "is-hit" : "is-miss"}` }, promptNode(block, block.prompt[prompt]), verdict);
    if (swept) node.append(layersNode(answer, chosen));
    return node;
  };
  let answer = ""; // which answers are listed: right, wrong, or all
  const fill = async (details) => {
    const box = details.querySelector(".answers");
    if (box.childElementCount && box.dataset.answer === answer) return;
    box.dataset.answer = answer;
    if (!all) {
      box.replaceChildren(make("p", { className: "note", textContent: "Unpacking …" }));
      try { await unpack(); } catch (error) {
        box.replaceChildren(make("p", { className: "note", textContent: `The answers cannot be unpacked in this browser (${error}); they are in records.jsonl of the run folder.` }));
        return;
      }
    }
    const chosen = details.dataset.layer === "" ? null : Number(details.dataset.layer);
    const every = all.lists.get(Number(details.dataset.cell)) ?? [];
    const entries = answer ? every.filter((entry) => isHit(entry, chosen) === (answer === "right")) : every;
    box.replaceChildren();
    let shown = 0;
    const more = make("button", { type: "button" });
    const add = () => {
      for (const entry of entries.slice(shown, shown + PAGE)) more.before(answerNode(entry, chosen));
      shown = Math.min(shown + PAGE, entries.length);
      more.hidden = shown >= entries.length;
      more.textContent = `Show more (${entries.length - shown} left)`;
    };
    box.append(more);
    more.addEventListener("click", add);
    add();
  };
  document.addEventListener("toggle", (event) => {
    if (event.target.matches?.("details.drill") && event.target.open) fill(event.target);
  }, true);

  // --- which lists are shown: by the address, which the tables' numbers and the choices below write ---
  const lists = document.getElementById("lists");
  const KEYS = lists ? Object.fromEntries(JSON.parse(lists.dataset.keys)) : {};
  const names = Object.keys(KEYS);
  const selects = {};
  const drills = lists ? [...lists.querySelectorAll("details.drill")] : [];
  const filter = (chosen) => {
    const wanted = names.map((name) => (chosen.has(name) ? KEYS[name].indexOf(chosen.get(name)) : null));
    answer = ["right", "wrong"].find((value) => value === chosen.get("answer")) ?? "";
    const any = wanted.some((i) => i !== null) || answer !== "";
    selects.answer.value = answer;
    for (const name of names) if (selects[name]) selects[name].value = chosen.get(name) ?? "";
    const matches = drills.filter((drill) => {
      const place = drill.dataset.place.split(" ").map(Number);
      const count = answer === "right" ? drill.dataset.hits : answer ? drill.dataset.size - drill.dataset.hits : 1;
      drill.hidden = !wanted.every((i, k) => i === null || i === place[k]) || !Number(count);
      if (!drill.hidden && drill.open) fill(drill);
      return !drill.hidden;
    });
    for (const group of lists.querySelectorAll("details.task, .model-lists")) {
      const found = group.querySelectorAll("details.drill:not([hidden])").length;
      group.hidden = !found;
      if (any && found && matches.length <= 60 && group.matches("details")) group.open = true;
    }
    if (any && matches.length === 1) matches[0].open = true;
    lists.querySelector(".found").textContent = `${matches.length} of ${drills.length} lists`;
    lists.querySelector(".clear").hidden = !any;
  };
  if (lists) {
    const bar = lists.querySelector(".filters");
    const write = () => {
      const chosen = new URLSearchParams([...names, "answer"].filter((n) => selects[n]?.value).map((n) => [n, selects[n].value]));
      history.replaceState(null, "", `#prompts${String(chosen) && `?${chosen}`}`);
      filter(chosen);
    };
    const SHOWN = { source: "specification", target: "query modality" };
    const choice = (name, values) => {
      const options = values.map((value) => make("option", { value, textContent: value }));
      selects[name] = make("select", {}, make("option", { value: "", textContent: "all" }), ...options);
      selects[name].addEventListener("change", write);
      bar.append(make("label", {}, SHOWN[name] ?? name, selects[name]));
    };
    for (const name of names.filter((n) => KEYS[n].length > 1)) {
      choice(name, KEYS[name]);
    }
    choice("answer", ["right", "wrong"]);
    const clear = make("button", { type: "button", className: "clear", textContent: "Show all", hidden: true });
    clear.addEventListener("click", () => {
      Object.values(selects).forEach((select) => { select.value = ""; });
      write();
    });
    bar.append(make("span", { className: "found" }), clear);
    filter(new URLSearchParams());
  }

  // Accuracies of single tasks lead to their lists; their rows know the rest of the address.
  for (const cell of document.querySelectorAll("tr[data-lists^='#'] > td.one")) {
    const href = `${cell.parentElement.dataset.lists}&task=${encodeURIComponent(cell.dataset.label)}`;
    cell.replaceChildren(make("a", { className: "to-prompts", href, textContent: cell.textContent }));
  }

  // --- the address opens what it names ---
  const follow = () => {
    const [id, query] = decodeURI(location.hash.slice(1)).split("?");
    const target = id && document.getElementById(id);
    if (!target) return;
    for (let node = target; node; node = node.parentElement) if (node.matches("details")) node.open = true;
    if (id === "prompts" && lists && query !== undefined) {
      lists.open = true;
      filter(new URLSearchParams(location.hash.slice(location.hash.indexOf("?") + 1)));
    }
    target.scrollIntoView();
  };
  addEventListener("hashchange", follow);

  // --- which section is being read ---
  const links = new Map([...document.querySelectorAll("nav a")].map((a) => [a.getAttribute("href").slice(1), a]));
  const spy = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      links.forEach((link) => link.removeAttribute("aria-current"));
      const link = links.get(entry.target.id);
      link?.setAttribute("aria-current", "true");
      const list = link?.closest("ul"); // on a narrow screen the list of sections scrolls sideways
      list?.scrollTo({ left: link.offsetLeft - list.offsetLeft - list.clientWidth / 2 + link.offsetWidth / 2 });
    }
  }, { rootMargin: "-20% 0px -70% 0px" });
  document.querySelectorAll("main > section").forEach((section) => spy.observe(section));

  window.xmi = { make, plain, unpacked };
  setTheme(theme);
  follow();
  drawAll().then(() => location.hash && follow()); // figures above it have pushed it down
})();
