// The page of the collector: the recent traces, and one trace as a waterfall.
//
// Everything that a span contains came from somewhere else and may be hostile. It reaches the document only through
// `h`, which makes text nodes and sets attributes from a fixed list, never markup.

const main = document.getElementById("main");
const search = document.getElementById("search");
const said = document.getElementById("said");
const buttons = Object.fromEntries(["errors", "live", "theme", "keys"].map((id) => [id, document.getElementById(id)]));

const POLL_MS = 1000;
// A trace gets its last spans within seconds of its first; after that it is not asked for again.
const TRACE_SETTLES_MS = 30_000;
const ROWS_AT_ONCE = 2000;
const DEPTH_DRAWN_MAX = 16;

const state = {
  live: true,
  errorsOnly: false,
  query: "",
  list: null,
  fleet: [],
  fleetOpen: new Set(),
  known: new Set(),
  visited: null,
  trace: null,
  open: new Set(),
  folded: new Set(),
  services: new Set(),
  rows: ROWS_AT_ONCE,
};

// ---- the document -------------------------------------------------------------------------------------------------

function h(tag, options, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(options ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "class") element.className = value;
    else if (name === "style") for (const [key, set] of Object.entries(value)) element.style.setProperty(key, set);
    else if (name === "on") for (const [event, run] of Object.entries(value)) element.addEventListener(event, run);
    else if (["href", "title", "role", "id", "type", "tabindex", "hidden", "datetime", "open"].includes(name) || name.startsWith("aria-") || name.startsWith("data-")) {
      element.setAttribute(name, value === true ? "" : value);
    } else throw new Error(`h does not set ${name}`);
  }
  for (const child of children.flat()) {
    if (child !== null && child !== undefined && child !== false) element.append(child);
  }
  return element;
}

const show = (...children) => main.replaceChildren(...children.filter(Boolean));

// Text from a span: it keeps its own direction, does not lend it to its neighbours, and what cannot be seen in it is
// shown by its number.
const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;
const visible = (text) => text.replace(UNSEEN, (unit) => `⟨U+${unit.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`);
const foreign = (text) => h("bdi", {}, visible(text));

// ---- colours ------------------------------------------------------------------------------------------------------

// Hues that can be told apart, none of them the red that means failure.
const HUES = [264, 160, 305, 75, 215, 130, 340, 190, 50, 285, 105, 240];
const hues = new Map();

function hue(service) {
  if (!hues.has(service)) {
    let hash = 0;
    for (const unit of service) hash = (Math.imul(hash, 31) + unit.codePointAt(0)) >>> 0;
    const taken = new Set(hues.values());
    const free = HUES.filter((candidate) => !taken.has(candidate));
    // The first services of a page get the first hues; many services share them.
    hues.set(service, free.length > 0 ? free[0] : HUES[hash % HUES.length]);
  }
  return hues.get(service);
}

const service = (name) => h("span", { class: "service", style: { "--h": hue(name) } }, foreign(name));

// ---- times --------------------------------------------------------------------------------------------------------

function duration(nanos) {
  if (nanos < 1e3) return `${nanos} ns`;
  const [value, unit] = nanos < 1e6 ? [nanos / 1e3, "µs"] : nanos < 1e9 ? [nanos / 1e6, "ms"] : [nanos / 1e9, "s"];
  return `${value.toFixed(value < 9.995 ? 2 : value < 99.95 ? 1 : 0)} ${unit}`;
}

function tick(nanos) {
  if (nanos === 0) return "0";
  const [value, unit] = nanos < 1e3 ? [nanos, "ns"] : nanos < 1e6 ? [nanos / 1e3, "µs"] : nanos < 1e9 ? [nanos / 1e6, "ms"] : [nanos / 1e9, "s"];
  return `${Number(value.toPrecision(4))} ${unit}`;
}

const moment = (unixNano) => new Date(Number(BigInt(unixNano) / 1_000_000n));

const long = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const exact = new Intl.DateTimeFormat(undefined, {
  year: "numeric", month: "short", day: "numeric", hour: "numeric", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3,
});

function ago(date) {
  const seconds = Math.round((Date.now() - date.getTime()) / 1000);
  if (seconds < 2) return "now";
  if (seconds < 60) return `${seconds} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
  return long.format(date);
}

const counted = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;

// ---- where we are -------------------------------------------------------------------------------------------------

function place() {
  const old = /^#\/trace\/([0-9a-f]{32})$/.exec(location.hash);
  if (old) history.replaceState(null, "", `/trace/${old[1]}`);
  const trace = /^\/trace\/([^/]*)$/.exec(location.pathname);
  return trace ? { trace: trace[1], span: location.hash.slice(1) } : { trace: null };
}

function go(path) {
  history.pushState(null, "", path);
  arrive();
}

function arrive() {
  const { trace, span } = place();
  clearTimeout(timer);
  search.value = "";
  state.query = "";
  scrollTo(0, 0);
  if (trace === null) {
    document.title = "Traces";
    buttons.errors.hidden = false;
    search.placeholder = "Trace id, service, span name, order.id=17";
    main.replaceChildren();
    etag = null;
    showList();
  } else {
    buttons.errors.hidden = true;
    search.placeholder = "Find spans in this trace";
    state.trace = null;
    state.open = new Set(span ? [span] : []);
    state.folded = new Set();
    state.services = new Set();
    state.rows = ROWS_AT_ONCE;
    state.visited = trace;
    main.replaceChildren();
  }
  poll(true);
}

addEventListener("popstate", arrive);
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-nav]");
  if (!link || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  go(link.getAttribute("href"));
});

// ---- asking -------------------------------------------------------------------------------------------------------

let timer;
let etag = null;
let asking = 0;

async function poll(now) {
  clearTimeout(timer);
  const mine = ++asking;
  const here = place();
  if (now || (state.live && !document.hidden)) {
    try {
      if (here.trace === null) await Promise.all([askFleet(mine), askList(mine)]);
      else await askTrace(here, mine);
      lost(false);
    } catch (error) {
      console.warn(error);
      lost(true);
    }
  }
  if (mine === asking) timer = setTimeout(poll, POLL_MS);
}

async function askList(mine) {
  const query = new URLSearchParams();
  if (state.query) query.set("q", state.query);
  if (state.errorsOnly) query.set("errors", "true");
  const headers = etag ? { "if-none-match": etag } : {};
  const response = await fetch(`/api/traces?${query}`, { headers, cache: "no-store" });
  if (mine !== asking) return;
  if (response.status === 304) return refreshTimes();
  if (!response.ok) throw new Error(`${response.status}`);
  etag = response.headers.get("etag");
  state.list = await response.json();
  if (mine === asking) showList();
}

async function askFleet(mine) {
  const response = await fetch("/api/services", { cache: "no-store" });
  if (mine !== asking) return;
  if (!response.ok) throw new Error(`${response.status}`);
  state.fleet = await response.json();
  if (mine === asking) showFleet();
}

async function askTrace({ trace: id, span }, mine) {
  if (state.trace && (Date.now() - moment(state.trace.start_unix_nano).getTime() > TRACE_SETTLES_MS)) return;
  const response = await fetch(`/api/traces/${encodeURIComponent(id)}`, { cache: "no-store" });
  if (mine !== asking) return;
  const answer = await response.json();
  if (mine !== asking) return;
  if (!response.ok) {
    if (!state.trace) main.replaceChildren(crumb(), h("p", { class: "empty" }, h("strong", {}, "No such trace"), answer.error));
    return;
  }
  const first = state.trace === null;
  if (!first && state.trace.spans.length === answer.spans.length) return;
  state.trace = answer;
  showTrace();
  if (first && span) focusRow(document.getElementById(`span-${span}`));
}

function lost(isLost) {
  buttons.live.classList.toggle("lost", isLost);
  buttons.live.textContent = isLost ? "Collector away" : state.live ? "Live" : "Paused";
  buttons.live.setAttribute("aria-pressed", String(state.live));
}

// ---- the services -------------------------------------------------------------------------------------------------

// It stays in its place while the list below it changes.
const fleet = h("section", { class: "fleet", "aria-label": "Services" });

const SAYS = {
  healthy: "Traces arrive",
  degraded: "Traces may be late or missing",
  misconfigured: "Traces do not arrive until the configuration is corrected",
  silent: "The service does not answer",
};

let fleetShown = "";

function showFleet() {
  // What somebody reads, copies or has the focus in is not taken away from him by the next answer.
  const shown = JSON.stringify(state.fleet, (key, value) => (key === "seen_ms" ? null : value)) + silences();
  if (shown === fleetShown) return;
  fleetShown = shown;
  const focused = document.activeElement?.closest?.(".fleet details")?.dataset.id;
  fleet.replaceChildren(...state.fleet.map(serviceCard));
  if (focused) fleet.querySelector(`details[data-id="${CSS.escape(focused)}"] summary`)?.focus({ preventScroll: true });
}

// How long those are silent that are, in seconds.
const silences = () => state.fleet.filter((one) => !one.answers).map((one) => Math.round(one.seen_ms / 1000)).join();

function serviceCard({ address, answers, seen_ms: seen, service: name, health, why, counters }) {
  const condition = answers ? health : "silent";
  const since = answers ? null : seen === null ? "It has not answered yet" : `Its last answer is ${Math.round(seen / 1000)} s old`;
  const facts = counters && [
    ["Spans", counters.started, "Spans that were recorded"],
    ["Delivered", counters.exported, "Spans that the collector has"],
    ["On their way", counters.live + counters.held + counters.queued + counters.spooled, "Spans that have not ended, and spans that wait to be sent"],
    ["Lost", counters.rejected + Object.values(counters.dropped).reduce((sum, spans) => sum + spans, 0), "Spans that were dropped, or refused by the collector"],
    counters.shed > 0 && ["Left out", counters.shed, "Traces that were not recorded because memory was short"],
  ].filter(Boolean);
  return h("article", { class: `card condition ${condition}` },
    h("h2", {}, name ? service(name) : foreign(address), h("span", { class: "state" }, visible(condition))),
    h("p", { class: "says" }, SAYS[condition] ?? visible(condition)),
    why && answers ? h("p", { class: "why" }, foreign(why)) : null,
    since ? h("p", { class: "why" }, since) : null,
    facts ? h("dl", { class: "counts" }, facts.map(([label, value, title]) => h("div", { title, class: label === "Lost" && value > 0 ? "telling" : undefined },
      h("dt", {}, label), h("dd", { class: "number" }, value.toLocaleString("en"))))) : null,
    counters ? h("details", {
      "data-id": address, open: state.fleetOpen.has(address),
      on: { toggle: (event) => { if (event.target.open) state.fleetOpen.add(address); else state.fleetOpen.delete(address); } },
    }, h("summary", {}, "All counters"), table(flat(counters))) : null);
}

// Every counter by its path, as the table of attributes wants them.
function flat(value, path = "") {
  if (Array.isArray(value)) return value.flatMap((one, index) => flat(one, `${path}[${index}]`));
  if (value !== null && typeof value === "object") return Object.entries(value).flatMap(([key, inner]) => flat(inner, path ? `${path}.${key}` : key));
  return [{ key: path, type: typeof value === "number" ? "int" : "string", value: typeof value === "number" ? value.toLocaleString("en") : String(value) }];
}

// ---- all traces ---------------------------------------------------------------------------------------------------

function showList() {
  const { list } = state;
  if (list === null) return;
  const head = h("div", { class: "list-head" },
    h("h1", {}, state.query || state.errorsOnly ? counted(list.matching, "matching trace") : "Recent traces"),
    h("p", { class: "number" },
      list.traces.length < list.matching ? `the latest ${list.traces.length} · ` : "",
      `${counted(list.kept, "trace")} and ${counted(list.spans_kept, "span")} kept`,
      list.evicted > 0 ? ` · ${list.evicted.toLocaleString("en")} older ones gone` : ""));
  if (list.traces.length === 0) {
    const nothing = list.kept === 0
      ? h("p", { class: "empty" }, h("strong", {}, "No trace has come yet"),
        "Point a service at this collector with ", h("code", {}, "OTEL_EXPORTER_OTLP_ENDPOINT"), " and send it a request.")
      : h("p", { class: "empty" }, h("strong", {}, "Nothing matches"), `None of the ${counted(list.kept, "trace")} here has all of these words.`);
    main.replaceChildren(fleet, head, h("div", { class: "card" }, nothing));
    return;
  }
  const focused = document.activeElement?.closest?.(".trace")?.dataset.id ?? state.visited;
  const hadFocus = document.activeElement === document.body || document.activeElement?.closest?.(".trace");
  const longest = Math.max(...list.traces.map((trace) => trace.duration_nanos), 1);
  const fresh = state.known.size > 0;
  const rows = list.traces.map((trace) => traceRow(trace, longest, fresh && !state.known.has(trace.id)));
  state.known = new Set(list.traces.map((trace) => trace.id));
  main.replaceChildren(fleet, head, h("div", { class: "card" },
    h("div", { class: "columns", "aria-hidden": "true" }, ...["Trace", "Services", "Spans", "Duration", "Started"].map((name) => h("span", {}, name))),
    h("div", { role: "list", "aria-label": "Traces" }, rows)));
  if (hadFocus && focused) main.querySelector(`.trace[data-id="${focused}"]`)?.focus({ preventScroll: document.activeElement === document.body });
  state.visited = null;
}

function traceRow(trace, longest, isNew) {
  const others = trace.services.filter((name) => name !== trace.service);
  const badge = trace.failed ? h("span", { class: "badge failed" }, "failed")
    : trace.errors > 0 ? h("span", { class: "badge bad", title: "Spans that failed, although the trace as a whole did not" }, counted(trace.errors, "error"))
      : null;
  const started = moment(trace.start_unix_nano);
  return h("a", {
    class: `trace${trace.failed ? " has-failed" : ""}${isNew ? " new" : ""}`, role: "listitem", href: `/trace/${trace.id}`,
    "data-nav": true, "data-id": trace.id, title: trace.id,
  },
  h("span", { class: "what" }, foreign(trace.rooted ? trace.name : `… ${trace.name}`),
    trace.outcome ? h("small", { class: "mono" }, foreign(trace.outcome)) : null, badge),
  h("span", { class: "through" }, [trace.service, ...others].map(service)),
  h("span", { class: "spans number" }, String(trace.spans)),
  h("span", { class: "length number" }, h("i", { style: { "--w": `${100 * trace.duration_nanos / longest}%` } }), h("b", {}, duration(trace.duration_nanos))),
  h("time", { class: "when number", datetime: started.toISOString(), title: long.format(started) }, ago(started)));
}

function refreshTimes() {
  for (const time of main.querySelectorAll("time[datetime]")) time.textContent = ago(new Date(time.getAttribute("datetime")));
}

// ---- one trace ----------------------------------------------------------------------------------------------------

const crumb = () => h("a", { class: "crumb", href: "/", "data-nav": true }, "← All traces");

function showTrace() {
  const { trace } = state;
  const root = trace.spans[0];
  const started = moment(trace.start_unix_nano);
  document.title = `${visible(root.name)} · ${duration(trace.duration_nanos)}`;
  const fact = (name, ...value) => h("div", {}, h("dt", {}, name), h("dd", { class: "number" }, value));
  const focused = document.activeElement?.closest?.(".span")?.id;
  show(
    crumb(),
    h("div", { class: "trace-head" },
      h("h1", {}, foreign(root.name), service(root.service),
        root.error ? h("span", { class: "badge failed" }, "failed")
          : trace.errors > 0 ? h("span", { class: "badge bad" }, counted(trace.errors, "error")) : null),
      h("dl", { class: "facts" },
        fact("Duration", duration(trace.duration_nanos)),
        fact("Spans", trace.spans.length.toLocaleString("en")),
        fact("Services", String(trace.services.length)),
        fact("Started", exact.format(started)),
        fact("Trace id", h("span", { class: "mono" }, trace.id), copyButton(trace.id, "trace id")))),
    trace.flaw ? h("p", { class: "note" }, "This trace is not complete: ", foreign(trace.flaw), ".") : null,
    trace.left_out > 0 ? h("p", { class: "note" }, `${counted(trace.left_out, "span")} more came than are kept of one trace.`) : null,
    legend(trace),
    waterfall(trace));
  applyFilter();
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
}

function copyButton(text, what) {
  return h("button", {
    class: "copy", type: "button", "aria-label": `Copy the ${what}`,
    on: {
      click: async (event) => {
        event.stopPropagation();
        const button = event.currentTarget;
        try {
          await navigator.clipboard.writeText(text);
          button.textContent = "Copied";
        } catch {
          button.textContent = "Not allowed";
        }
        setTimeout(() => { button.textContent = "Copy"; }, 1500);
      },
    },
  }, "Copy");
}

function legend(trace) {
  const counts = new Map();
  for (const span of trace.spans) counts.set(span.service, (counts.get(span.service) ?? 0) + 1);
  return h("ul", { class: "legend", "aria-label": "Services: press one to see its spans only" }, trace.services.map((name) => h("li", {},
    h("button", {
      type: "button", "aria-pressed": String(state.services.has(name)),
      on: {
        click: (event) => {
          if (!state.services.delete(name)) state.services.add(name);
          event.currentTarget.setAttribute("aria-pressed", String(state.services.has(name)));
          applyFilter();
        },
      },
    }, service(name), h("small", { class: "number" }, String(counts.get(name)))))));
}

function waterfall(trace) {
  const total = Math.max(trace.duration_nanos, 1);
  const step = niceStep(total);
  const ticks = [];
  for (let at = 0; at < total * 0.97; at += step) ticks.push(h("span", { style: { "--x": `${100 * at / total}%` } }, tick(at)));
  const hasChildren = new Set(trace.spans.map((span) => span.parent));
  const rows = trace.spans.slice(0, state.rows).map((span, index) => spanRow(trace, span, index, total, hasChildren.has(span.id)));
  const tree = h("div", { role: "tree", "aria-label": "Spans", style: { "--step": `${100 * step / total}%` } }, rows);
  for (const span of trace.spans) if (state.open.has(span.id)) openDetails(tree, span.id);
  const left = trace.spans.length - state.rows;
  const more = left > 0 && h("button", {
    class: "more", type: "button",
    on: { click: () => { state.rows += ROWS_AT_ONCE; showTrace(); } },
  }, `Show ${counted(Math.min(left, ROWS_AT_ONCE), "more span")} of ${left.toLocaleString("en")}`);
  const card = h("div", { class: "card waterfall" },
    h("div", { class: "axis", "aria-hidden": "true" }, h("div", {}, "Span"), h("div", { class: "ticks" }, ticks)),
    tree, more, splitter());
  hideFolded(tree);
  return card;
}

// 1, 2 or 5 times a power of ten, so that there are some five ticks, or two where there is no room for more.
function niceStep(total) {
  const rough = total / (innerWidth > 860 ? 5 : 2);
  const power = 10 ** Math.floor(Math.log10(rough));
  const factor = [1, 2, 5, 10].find((candidate) => candidate * power >= rough);
  return Math.max(factor * power, 1);
}

function spanRow(trace, span, index, total, hasChildren) {
  const from = clamp(span.start_nanos / total);
  const to = clamp((span.start_nanos + span.duration_nanos) / total);
  const room = to < 0.86 ? "after" : from > 0.14 ? "before" : "inside";
  const x = `${100 * from}%`;
  const w = `${100 * (to - from)}%`;
  const told = (key) => span.attributes.find((attribute) => attribute.key === key)?.value;
  const resent = told("http.request.resend_count");
  const peer = span.kind === "client" && told("server.address") && [told("server.address"), told("server.port")].filter(Boolean).join(":");
  const outcome = told("http.response.status_code") ?? told("rpc.status_code");
  const parts = span.depth > DEPTH_DRAWN_MAX ? DEPTH_DRAWN_MAX : span.depth;
  const row = h("div", {
    class: `span${span.error ? " error" : ""}${state.open.has(span.id) ? " open" : ""}`, id: `span-${span.id}`,
    role: "treeitem", tabindex: index === 0 ? "0" : "-1", "aria-level": String(span.depth + 1),
    "aria-expanded": hasChildren ? String(!state.folded.has(span.id)) : undefined,
    "aria-label": `${span.name}, ${span.service}, ${span.kind}, ${duration(span.duration_nanos)}${span.error ? ", failed" : ""}`,
    "data-id": span.id, style: { "--h": hue(span.service), "--depth": String(parts) },
  },
  h("div", { class: "name" },
    h("span", { class: "guides" }),
    h("button", {
      class: `twist${hasChildren ? "" : " none"}`, type: "button", tabindex: "-1", "aria-hidden": "true",
      on: { click: (event) => { event.stopPropagation(); fold(row); } },
    }),
    h("span", { class: "stripe" }),
    span.error ? h("span", { class: "mark", title: "failed" }, "!") : null,
    h("span", { class: "title", title: visible(span.name) }, foreign(span.name)),
    h("span", { class: "of" }, foreign(span.service)),
    peer ? h("span", { class: "to", title: "server.address, server.port" }, "→ ", foreign(peer)) : null,
    resent ? h("span", { class: "badge", title: "http.request.resend_count" }, "retry ", foreign(resent)) : null,
    span.links.length > 0 ? h("span", { class: "badge", title: "Links to other spans" }, counted(span.links.length, "link")) : null,
    span.depth > DEPTH_DRAWN_MAX ? h("span", { class: "badge" }, `depth ${span.depth}`) : null),
  h("div", { class: "time", style: { "--x": x, "--w": w } },
    h("span", { class: `block${span.duration_nanos / total < 0.004 ? " tiny" : ""}` }),
    span.events.map((event) => h("span", { class: "event", title: event.name, style: { "--x": `${100 * clamp(event.at_nanos / total)}%` } })),
    h("span", { class: `took ${room}` }, duration(span.duration_nanos), outcome && span.error ? [" · ", foreign(outcome)] : null)));
  row.addEventListener("click", () => { focusRow(row); toggleDetails(row); });
  return row;
}

const clamp = (part) => Math.min(Math.max(part, 0), 1);

function splitter() {
  const set = (share) => document.documentElement.style.setProperty("--names", `${Math.min(Math.max(share, 18), 70).toFixed(1)}%`);
  const share = () => parseFloat(getComputedStyle(document.documentElement).getPropertyValue("--names"));
  return h("div", {
    class: "split", role: "separator", tabindex: "0", "aria-orientation": "vertical", "aria-label": "Width of the names",
    on: {
      pointerdown: (event) => event.currentTarget.setPointerCapture(event.pointerId),
      pointermove: (event) => {
        if (!event.currentTarget.hasPointerCapture(event.pointerId)) return;
        const box = event.currentTarget.parentElement.getBoundingClientRect();
        set(100 * (event.clientX - box.left) / box.width);
      },
      keydown: (event) => {
        if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
        set(share() + (event.key === "ArrowLeft" ? -2 : 2));
        event.preventDefault();
        event.stopPropagation();
      },
    },
  });
}

// ---- a span's details ---------------------------------------------------------------------------------------------

function toggleDetails(row) {
  const { id } = row.dataset;
  if (state.open.delete(id)) {
    row.classList.remove("open");
    document.getElementById(`details-${id}`)?.remove();
    return;
  }
  state.open.add(id);
  openDetails(row.parentElement, id);
  history.replaceState(null, "", `#${id}`);
}

function openDetails(tree, id) {
  const row = tree.querySelector(`[id="span-${id}"]`);
  if (!row || row.nextElementSibling?.id === `details-${id}`) return;
  const span = state.trace.spans.find((candidate) => candidate.id === id);
  row.classList.add("open");
  row.after(details(span));
}

function details(span) {
  const { trace } = state;
  const at = (nanos) => `+${duration(Math.max(nanos, 0))}`;
  const value = (key) => span.attributes.find((attribute) => attribute.key === key)?.value;
  const failure = span.error && h("p", { class: "wrong" },
    h("b", {}, "Failed"), value("error.type") ? [": ", foreign(value("error.type"))] : null,
    span.status_message ? [" — ", foreign(span.status_message)] : null);
  const told = (name, ...text) => h("span", {}, name, " ", h("b", {}, text));
  const dropped = (count) => count > 0 && h("small", {}, `${count} left out`);
  const resource = trace.resources[span.resource];
  // Where nothing else stands beside the attributes, there is room for the process.
  const aside = span.events.length + span.links.length + span.dropped_events + span.dropped_links === 0 && span.attributes.length >= 5;
  return h("div", { class: "details", id: `details-${span.id}`, role: "group", "aria-label": `Details of ${span.name}`, style: { "--h": hue(span.service) } },
    failure,
    h("div", { class: "identity" },
      told("Kind", span.kind), told("Status", span.error ? "error" : span.ok ? "ok" : "unset"),
      told("Starts", at(span.start_nanos)), told("Takes", duration(span.duration_nanos)),
      told("Span", span.id), span.parent ? told("Parent", span.parent) : null,
      span.scope ? told("Made by", foreign(span.scope)) : null,
      span.trace_state ? told("Trace state", foreign(span.trace_state)) : null),
    h("section", {},
      h("h3", {}, "Attributes", dropped(span.dropped_attributes)),
      span.attributes.length > 0 ? table(span.attributes, span.error) : h("p", { class: "none" }, "None")),
    h("div", {},
      span.events.length > 0 || span.dropped_events > 0 ? h("section", {},
        h("h3", {}, "Events", dropped(span.dropped_events)),
        h("ul", { class: "events" }, span.events.map((event) => h("li", {},
          h("div", { class: "head" }, h("span", { class: "number" }, at(event.at_nanos)), h("b", {}, foreign(event.name))),
          event.attributes.length > 0 ? table(event.attributes) : null)))) : null,
      span.links.length > 0 || span.dropped_links > 0 ? h("section", {},
        h("h3", {}, "Links", dropped(span.dropped_links)),
        h("ul", { class: "links" }, span.links.map((link) => linkItem(link)))) : null,
      h("section", {},
        h("details", { open: aside }, h("summary", {}, "Process"), resource.length > 0 ? table(resource) : h("p", {}, "Says nothing about itself")))));
}

function linkItem(link) {
  const { trace } = state;
  const target = link.trace === trace.id && trace.spans.find((span) => span.id === link.span);
  const text = target ? [foreign(target.name), " ", service(target.service)]
    : [h("span", { class: "mono" }, `${link.trace.slice(0, 8)}… / ${link.span}`)];
  const leads = target
    ? h("a", { href: `#${link.span}`, on: { click: (event) => { event.preventDefault(); event.stopPropagation(); reveal(link.span); } } }, text)
    : link.here ? h("a", { href: `/trace/${link.trace}#${link.span}`, "data-nav": true }, text) : h("span", {}, text, " (not here)");
  return h("li", {}, leads, link.attributes.length > 0 ? table(link.attributes) : null);
}

function table(attributes, failed) {
  const sorted = [...attributes].sort((a, b) => (a.key < b.key ? -1 : a.key > b.key ? 1 : 0));
  return h("table", {}, h("tbody", {}, sorted.map(({ key, type, value }) => h("tr", { class: failed && key === "error.type" ? "telling" : undefined },
    h("th", { title: key }, foreign(key)),
    h("td", { class: `${type}${type === "string" && value === "" ? " empty-text" : ""}`, title: type }, h("div", {}, foreign(value)))))));
}

// ---- the tree of spans --------------------------------------------------------------------------------------------

const rowsShown = () => [...main.querySelectorAll(".span:not([hidden])")];

function focusRow(row) {
  if (!row) return;
  for (const other of main.querySelectorAll('.span[tabindex="0"]')) other.tabIndex = -1;
  row.tabIndex = 0;
  row.focus({ preventScroll: true });
  row.scrollIntoView({ block: "nearest" });
}

function fold(row, wanted) {
  if (!row.hasAttribute("aria-expanded")) return;
  const { id } = row.dataset;
  const isFolded = wanted ?? !state.folded.has(id);
  if (isFolded) state.folded.add(id);
  else state.folded.delete(id);
  row.setAttribute("aria-expanded", String(!isFolded));
  hideFolded(row.parentElement);
}

function hideFolded(tree) {
  let under = Infinity;
  for (const row of tree.children) {
    if (!row.classList.contains("span")) {
      row.hidden = row.previousElementSibling.hidden;
      continue;
    }
    const level = Number(row.getAttribute("aria-level"));
    if (level <= under) under = Infinity;
    row.hidden = level > under;
    if (!row.hidden && state.folded.has(row.dataset.id)) under = level;
  }
}

function reveal(id) {
  const byId = new Map(state.trace.spans.map((span) => [span.id, span]));
  const seen = new Set();
  for (let span = byId.get(byId.get(id)?.parent); span && !seen.has(span.id); span = byId.get(span.parent)) {
    seen.add(span.id);
    const row = document.getElementById(`span-${span.id}`);
    if (row) fold(row, false);
  }
  const row = document.getElementById(`span-${id}`);
  if (!row) return;
  if (!state.open.has(id)) toggleDetails(row);
  focusRow(row);
  row.scrollIntoView({ block: "center" });
}

function applyFilter() {
  if (!state.trace) return;
  const words = state.query.toLowerCase().split(/\s+/).filter(Boolean);
  let matching = 0;
  const byId = new Map(state.trace.spans.map((span) => [span.id, span]));
  for (const row of main.querySelectorAll(".span")) {
    const span = byId.get(row.dataset.id);
    const text = () => [span.name, span.service, span.kind, span.id, ...span.attributes.map(({ key, value }) => `${key}=${value}`), ...span.events.map((event) => event.name)].join("\n").toLowerCase();
    const matches = (state.services.size === 0 || state.services.has(span.service)) && (words.length === 0 || words.every((word) => text().includes(word)));
    row.classList.toggle("aside", !matches);
    if (matches) matching += 1;
  }
  if (words.length > 0 || state.services.size > 0) said.textContent = `${counted(matching, "span")} match`;
}

// ---- keys and buttons ---------------------------------------------------------------------------------------------

function nextFailed() {
  const failed = rowsShown().filter((row) => row.classList.contains("error"));
  const at = failed.indexOf(document.activeElement);
  focusRow(failed[(at + 1) % failed.length]);
}

function toggleAll() {
  const rows = rowsShown();
  const open = rows.some((row) => !state.open.has(row.dataset.id));
  for (const row of rows) if (state.open.has(row.dataset.id) !== open) toggleDetails(row);
}

const keys = {
  "/": () => search.focus(),
  "?": () => help(),
  p: () => togglePause(),
  e: () => nextFailed(),
  x: () => toggleAll(),
  Escape: () => { if (place().trace !== null) go("/"); },
};

document.addEventListener("keydown", (event) => {
  if (event.metaKey || event.ctrlKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.target === search) {
    if (event.key === "Escape") {
      if (search.value) { search.value = ""; search.dispatchEvent(new Event("input")); } else search.blur();
    } else if (event.key === "Enter" || event.key === "ArrowDown") {
      const first = main.querySelector(".trace, .span:not(.aside):not([hidden])");
      if (first?.classList.contains("span")) focusRow(first);
      else first?.focus();
      event.preventDefault();
    }
    return;
  }
  if (keys[event.key]) {
    keys[event.key]();
    event.preventDefault();
    return;
  }
  if (event.key === "ArrowDown" || event.key === "ArrowUp" || event.key === "Home" || event.key === "End") {
    const rows = [...main.querySelectorAll(".trace, .span:not([hidden])")];
    const at = rows.indexOf(document.activeElement);
    const to = { ArrowDown: at + 1, ArrowUp: Math.max(at - 1, 0), Home: 0, End: rows.length - 1 }[event.key];
    const row = rows[Math.min(to, rows.length - 1)];
    if (row?.classList.contains("span")) focusRow(row);
    else { row?.focus({ preventScroll: true }); row?.scrollIntoView({ block: "nearest" }); }
    event.preventDefault();
    return;
  }
  const row = event.target.closest?.(".span");
  if (!row || row !== event.target) return;
  if (event.key === "Enter" || event.key === " ") toggleDetails(row);
  else if (event.key === "ArrowRight") {
    if (state.folded.has(row.dataset.id)) fold(row, false);
    else if (row.hasAttribute("aria-expanded")) focusRow(rowsShown()[rowsShown().indexOf(row) + 1]);
  } else if (event.key === "ArrowLeft") {
    if (row.getAttribute("aria-expanded") === "true") fold(row, true);
    else {
      const { parent } = state.trace.spans.find((span) => span.id === row.dataset.id);
      focusRow(parent && document.getElementById(`span-${parent}`));
    }
  } else return;
  event.preventDefault();
});

let typing;
search.addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => {
    state.query = search.value.trim();
    if (place().trace === null) { etag = null; poll(true); } else applyFilter();
  }, 120);
});

buttons.errors.addEventListener("click", () => {
  state.errorsOnly = !state.errorsOnly;
  buttons.errors.setAttribute("aria-pressed", String(state.errorsOnly));
  etag = null;
  poll(true);
});

function togglePause() {
  state.live = !state.live;
  lost(false);
  if (state.live) poll(true);
}
buttons.live.addEventListener("click", togglePause);

function help() { document.getElementById("help").showModal(); }
buttons.keys.addEventListener("click", help);

const THEMES = ["system", "light", "dark"];
function setTheme(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  buttons.theme.title = `Colours: ${theme === "system" ? "as the system has them" : theme}`;
  buttons.theme.setAttribute("aria-label", buttons.theme.title);
  try { localStorage.setItem("theme", theme); } catch { /* Kept for this visit only. */ }
}
buttons.theme.addEventListener("click", () => {
  const now = document.documentElement.dataset.theme ?? "system";
  setTheme(THEMES[(THEMES.indexOf(now) + 1) % THEMES.length]);
});
try { setTheme(localStorage.getItem("theme") ?? "system"); } catch { setTheme("system"); }

document.addEventListener("visibilitychange", () => { if (!document.hidden) poll(); });
lost(false);
arrive();
