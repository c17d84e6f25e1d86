"use strict";
(() => {
  const root = document.documentElement;
  const byId = (id) => document.getElementById(id);
  const payload = JSON.parse(byId("payload").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const live = new Map();

  // --- theme -----------------------------------------------------------------------------------
  const toggle = byId("theme");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);
  const nameToggle = () => { toggle.textContent = isDark() ? "Light" : "Dark"; };
  toggle.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try { localStorage.setItem("kvplan-theme", root.dataset.theme); } catch (_) { /* not kept, still shown */ }
    recolour();
  });
  dark.addEventListener("change", () => recolour());
  nameToggle();

  // --- downloads and copying ---------------------------------------------------------------------
  const save = (name, type, text) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  };
  const on = (id, act) => {
    const button = byId(id);
    if (button) { button.hidden = false; button.addEventListener("click", () => act(button)); }
  };
  const called = (button) => button.dataset.name || "result";
  on("save-json", (button) => save(`${called(button)}.json`, "application/json", byId("result").textContent));
  on("save-csv", (button) => save(`${called(button)}.csv`, "text/csv", payload.csv));
  const copy = async (button) => {
    const code = button.parentElement.querySelector("code");
    let done = true;
    try {
      await navigator.clipboard.writeText(code.textContent);
    } catch (_) {
      getSelection().selectAllChildren(code);
      done = document.execCommand("copy");
    }
    button.textContent = done ? "Copied" : "Selected: press Ctrl+C";
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  };
  for (const button of document.querySelectorAll(".copy")) {
    button.hidden = false;
    button.addEventListener("click", () => copy(button));
  }
  on("print", () => print());

  // A table that scrolls sideways must be reachable from the keyboard.
  const reach = () => {
    for (const box of document.querySelectorAll(".scroll")) {
      if (box.scrollWidth > box.clientWidth) box.tabIndex = 0; else box.removeAttribute("tabindex");
    }
  };
  addEventListener("resize", reach);
  reach();

  // --- charts ------------------------------------------------------------------------------------
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const coarse = matchMedia("(pointer: coarse)").matches;

  const resolved = (figure, width) => {
    const style = getComputedStyle(root);
    const text = JSON.stringify(figure).replace(/"var\((--[\w-]+)\)"/g,
      (_, name) => JSON.stringify(style.getPropertyValue(name).trim()));
    const { data, layout } = JSON.parse(text);
    layout.font.family = style.getPropertyValue("--sans");
    if (coarse) layout.dragmode = false;
    // A legend stands beside the axis' title where both have room, else in rows under the chart, whose columns
    // are as wide as the longest name.
    const room = width - layout.margin.l - layout.margin.r;
    const named = data.filter((trace) => trace.showlegend !== false).map((trace) => 48 + 6.5 * trace.name.length);
    const length = named.reduce((a, b) => a + b, 0);
    const rows = length <= room ? 1 : Math.ceil(named.length / Math.max(1, Math.floor(room / Math.max(...named))));
    let below = 0;
    if (data[0].type === "bar") below = 24 * (rows - 1);
    else if (named.length > 1 && (width < 520 || 6.5 * layout.annotations[0].text.length + length > room)) {
      layout.legend = { ...layout.legend, x: 0, xanchor: "left", yref: "container", y: 0, yanchor: "bottom" };
      below = 10 + 20 * rows;
    }
    layout.height += below;
    layout.margin.b += below;
    if (width < 520) layout.xaxis.nticks = 5;
    if (still) layout.transition = { duration: 0 };
    return { data, layout };
  };
  const config = {
    displaylogo: false, responsive: true, scrollZoom: false, showTips: false,
    // Named, so that no version of the library adds one: "Share chart" would upload what is in the page.
    modeBarButtons: [["toImage"], ["zoom2d", "pan2d"], ["zoomIn2d", "zoomOut2d", "resetScale2d"]],
    plotlyServerURL: "",
  };
  // A chart is hidden from screen readers, which have its summary and its table: its buttons are no stops either.
  const unreach = (target) => {
    for (const button of target.querySelectorAll(".modebar-btn")) button.tabIndex = -1;
  };
  const draw = async (plot) => {
    const key = plot.dataset.chart;
    const target = plot.querySelector(".live");
    const { data, layout } = resolved(payload.charts[key], plot.clientWidth);
    const image = { format: "svg", filename: key };
    plot.classList.add("is-live"); // shown first: a hidden element has no width to fill
    try {
      await Plotly.react(target, data, layout, { ...config, toImageButtonOptions: image });
    } catch (error) {
      plot.classList.remove("is-live");
      throw error;
    }
    if (!live.has(key)) target.on("plotly_afterplot", () => unreach(target));
    unreach(target);
    live.set(key, plot);
  };
  const recolour = () => { nameToggle(); for (const plot of live.values()) draw(plot); };

  const unpack = async () => {
    const packed = atob(byId("plotly").textContent);
    const bytes = Uint8Array.from(packed, (ch) => ch.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  };
  const start = async () => {
    const plots = [...document.querySelectorAll(".plot")];
    if (!plots.length) return;
    if (typeof DecompressionStream === "undefined") {
      byId("static-note").hidden = false;
      return;
    }
    await unpack();
    for (const plot of plots) await draw(plot);
  };
  start().then(() => { root.dataset.charts = "ready"; }, (error) => {
    byId("static-note").hidden = false;
    console.error(error);
  });
})();
