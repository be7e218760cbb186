// What comes from the server once a second, put on the page. The stream is closed while the page is hidden.

const POINTS = 120;
const REASONS = {
  full: "max_batch_size rows, or the next did not fit", idle: "an instance was free", timer: "max_queue_delay was over",
  deadline: "waiting would miss a deadline", shape: "the next has another shape", drain: "the model is leaving",
  isolate: "a half of a batch that failed",
};
const OUTCOMES = [
  ["received", "received", ""], ["completed", "completed", ""], ["late", "… after their deadline", ""],
  ["invalid", "invalid", "the caller's mistake"], ["refused", "refused", "too much work, or leaving"], ["expired", "expired", "waited past the deadline"],
  ["cancelled", "cancelled", "the client left"], ["failed", "failed", "the model failed"],
  ["rows", "rows of completed ones", ""], ["executions", "runs", ""], ["failed_executions", "runs that failed", ""],
];
const PHASES = [["decode", "until it is queued"], ["queue", "until its batch starts"], ["gather", "joining rows"], ["run", "in the runtime"], ["scatter", "splitting rows"]];

const byId = (id) => document.getElementById(id);
const keyOf = (model) => `${model.name}/${model.version}`;

const page = {models: new Map(), numbers: new Map(), history: new Map(), chosen: "", now: null, source: null, form: new TryForm()};

function text(id, value, unit) {
  const node = byId(id);
  node.replaceChildren(value, ...(unit ? [html("small", {}, unit)] : []));
}

function pill(node, words, kind) {
  node.textContent = words;
  node.className = `pill ${kind}`;
}

function kindOfState(state) { return state === "READY" ? "good" : state === "UNAVAILABLE" ? "bad" : "warn"; }

// --- events ----------------------------------------------------------------------------------------------------------

function onModels(data) {
  byId("version").textContent = data.server.version;
  const before = page.models.get(page.chosen);
  page.models = new Map(data.models.map((model) => [keyOf(model), model]));
  if (!page.models.has(page.chosen)) page.chosen = page.models.keys().next().value || "";
  drawNav();
  const chosen = page.models.get(page.chosen);
  if (chosen && JSON.stringify(chosen.inputs) !== JSON.stringify(before && before.inputs)) page.form.show(chosen);
  drawTitle();
}

function onNow(data) {
  page.now = data;
  page.numbers = new Map(data.models.map((model) => [keyOf(model), model]));
  for (const [key, model] of page.numbers) {
    let kept = page.history.get(key);
    if (!kept) page.history.set(key, (kept = {completed: [], rows: [], p50: [], p99: [], queue: []}));
    const point = {completed: model.rates.completed, rows: model.rates.rows, p50: model.latency_ms.p50, p99: model.latency_ms.p99, queue: model.queue.rows};
    for (const [name, value] of Object.entries(point)) { kept[name].push(value); if (kept[name].length > POINTS) kept[name].shift(); }
  }
  drawServer();
  drawNavNumbers();
  drawModel();
  drawErrors();
  document.documentElement.dataset.readings = String(Number(document.documentElement.dataset.readings || 0) + 1);
}

function connect() {
  if (page.source) return;
  const source = (page.source = new EventSource("console/events"));
  source.addEventListener("models", (event) => onModels(JSON.parse(event.data)));
  source.addEventListener("now", (event) => onNow(JSON.parse(event.data)));
  source.addEventListener("end", () => { disconnect(); pill(byId("ready"), "the server has stopped", "bad"); setTimeout(connect, 2000); });
  source.addEventListener("error", () => pill(byId("ready"), "connection lost; trying again", "bad"));
}

function disconnect() {
  if (page.source) page.source.close();
  page.source = null;
}

document.addEventListener("visibilitychange", () => (document.hidden ? disconnect() : connect()));
addEventListener("resize", () => { if (page.now) drawModel(); });

// --- drawing ---------------------------------------------------------------------------------------------------------

function drawServer() {
  const now = page.now;
  pill(byId("ready"), now.why_not_ready || "ready", now.why_not_ready ? "warn" : "good");
  text("uptime", uptime(now.uptime_s));
  text("cores", now.process.cores.toFixed(2));
  text("memory", now.process.resident_bytes ? `${whole(now.process.resident_bytes / 2 ** 20)} MiB` : "–");
  text("lag", `${short(now.lag_max_ms)} ms`);
  text("connections", whole(now.http.connections));
  text("responses", ["2xx", "4xx", "5xx"].map((kind) => whole(now.http.responses[kind] || 0)).join(" / "));
}

function uptime(seconds) {
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
}

function drawNav() {
  byId("models").replaceChildren(...[...page.models].map(([key, model]) => {
    const what = html("span", {class: "what"});
    const button = html("button", {type: "button", "data-key": key, "aria-current": String(key === page.chosen)},
      html("span", {class: `dot ${kindOfState(model.state)}`, "aria-hidden": "true"}),
      html("span", {class: "who"}, model.name, html("span", {class: "faint"}, model.version ? ` ${model.version}` : "")), what);
    button.addEventListener("click", () => choose(key));
    return html("li", {}, button);
  }));
  drawNavNumbers();
}

function drawNavNumbers() {
  for (const button of byId("models").querySelectorAll("button")) {
    const model = page.models.get(button.dataset.key), numbers = page.numbers.get(button.dataset.key);
    const words = model.state !== "READY" ? model.state.toLowerCase() : numbers ? `${short(numbers.rates.completed)}/s` : "";
    button.querySelector(".what").textContent = words;
    button.setAttribute("aria-label", `${model.name} version ${model.version || "none"}, ${model.state.toLowerCase()}${numbers ? `, ${short(numbers.rates.completed)} requests per second` : ""}`);
  }
}

function choose(key) {
  page.chosen = key;
  for (const button of byId("models").querySelectorAll("button")) button.setAttribute("aria-current", String(button.dataset.key === key));
  page.form.show(page.models.get(key));
  drawTitle();
  drawModel();
}

function drawTitle() {
  const model = page.models.get(page.chosen);
  if (!model) return;
  byId("name").replaceChildren(model.name, html("span", {class: "faint"}, model.version ? ` ${model.version}` : ""));
  pill(byId("state"), model.state, kindOfState(model.state));
  byId("reason").hidden = !model.reason;
  byId("reason").textContent = model.reason;
  drawBuild(model.build);
  if (!model.limits) { byId("facts").textContent = ""; return; }
  const limits = model.limits, delay = limits.max_queue_delay_ms;
  byId("facts").textContent = [
    model.providers.map((name) => name.replace("ExecutionProvider", "")).join(" then "),
    limits.instances === 1 ? "1 instance" : `${limits.instances} instances`,
    model.is_batching ? `up to ${limits.max_batch_size} rows a batch` : `not batched: ${model.why}`,
    ...(limits.latency_target_ms === null ? [] : [`target ${short(limits.latency_target_ms)} ms`]),
    `delay ${delay === null ? "auto" : `${short(delay)} ms`}`, `timeout ${short(limits.timeout_ms / 1000)} s`, `loaded in ${short(model.load_s)} s`,
  ].join(" · ");
}

function drawBuild(build) {
  const node = byId("build");
  node.hidden = !build || build.state === "swapped" || build.state === "declined";
  if (node.hidden) return;
  const isBad = build.state === "refused" || build.state === "failed", provider = build.provider.replace("ExecutionProvider", "");
  node.className = isBad ? "note" : "note calm";
  node.textContent = isBad ? `Stays on ${provider}: ${build.why}` : `Runs on ${provider} for now: ${build.why}`;
}

function drawModel() {
  const model = page.models.get(page.chosen), numbers = page.numbers.get(page.chosen);
  if (!model || !numbers) { if (model) clearModel(); return; }
  const {rates, queue, latency_ms: latency} = numbers, history = page.history.get(page.chosen);
  const target = model.limits ? model.limits.latency_target_ms : null;
  byId("overload").hidden = !numbers.sizing.is_overloaded;
  text("rate", short(rates.completed));
  text("p50", short(latency.p50), latency.p50 === null ? "" : "ms");
  text("p99", short(latency.p99), latency.p99 === null ? "" : "ms");
  text("batch", numbers.operating_point ? short(numbers.operating_point[0]) : "–");
  text("waiting", whole(queue.requests), queue.running ? `+ ${whole(queue.running)} running` : "");
  text("busy", `${whole((numbers.busy.reduce((sum, share) => sum + share, 0) / Math.max(1, numbers.busy.length)) * 100)}`, "%");
  text("errors-rate", short(rates.errors));

  timeChart(byId("chart-rate"), [{name: "requests", values: history.completed}, {name: "rows", values: history.rows}], POINTS, "", null, `Requests per second over two minutes, now ${short(rates.completed)}; rows per second, now ${short(rates.rows)}`);
  timeChart(byId("chart-latency"), [{name: "median", values: history.p50}, {name: "99 %", values: history.p99}], POINTS, "ms", target, `Latency over two minutes: median now ${short(latency.p50)} ms, 99 percent now ${short(latency.p99)} ms`);
  timeChart(byId("chart-queue"), [{name: "rows", values: history.queue}], POINTS, "", null, `Rows that wait over two minutes, now ${queue.rows}`);
  byId("queue-facts").textContent = `${whole(queue.rows)} of at most ${whole(queue.limit_rows)} rows wait, the oldest for ${short(queue.oldest_ms)} ms; waiting took ${short(numbers.wait_ms.p50)} ms at the median, ${short(numbers.wait_ms.p99)} ms at 99 %`;
  barChart(byId("chart-sizes"), numbers.sizes, `Batches by rows: ${numbers.sizes.map(([rows, count]) => `${rows} rows ${count}`).join(", ") || "none"}`);
  costChart(byId("chart-cost"), numbers.cost.points, numbers.operating_point, numbers.sizing.useful, model.limits && model.limits.max_batch_size);
  drawPhases(numbers);
  drawReasons(numbers);
  byId("totals").replaceChildren(...OUTCOMES.map(([name, words, meaning]) => html("div", {},
    html("dt", {}, words, meaning ? html("span", {class: "faint"}, ` ${meaning}`) : null),
    html("dd", {"data-total": name}, whole(numbers.totals[name])))));
}

function clearModel() {
  byId("overload").hidden = true;
  for (const id of ["rate", "p50", "p99", "batch", "waiting", "busy", "errors-rate"]) text(id, "–");
  for (const id of ["chart-rate", "chart-latency", "chart-queue", "chart-sizes", "chart-cost", "phases", "reasons"]) empty(byId(id), "It does not serve now");
  byId("totals").replaceChildren();
  byId("queue-facts").textContent = "";
}

function drawPhases(numbers) {
  if (!numbers.latency_ms.count) { empty(byId("phases"), "No request in the last ten seconds"); return; }
  byId("phases").replaceChildren(...stackBar(PHASES.map(([name, meaning]) => [name, numbers.phases_ms[name], meaning]), "ms", "Mean time of a request"));
}

function drawReasons(numbers) {
  const reasons = Object.entries(numbers.reasons).sort((a, b) => b[1] - a[1]);
  if (!reasons.length) { empty(byId("reasons"), "No batch in the last ten seconds"); return; }
  const total = reasons.reduce((sum, [, count]) => sum + count, 0);
  byId("reasons").replaceChildren(html("ul", {class: "bars"}, ...reasons.map(([name, count]) => {
    const bar = html("span");
    bar.style.width = `${(count / total) * 100}%`;
    return html("li", {}, html("span", {}, name, html("span", {class: "faint"}, ` ${REASONS[name] || ""}`)),
      html("span", {"data-reason": name}, count / total < 0.005 ? "< 1 %" : `${whole((count / total) * 100)} %`), html("span", {class: "track", "aria-hidden": "true"}, bar));
  })));
}

function drawErrors() {
  const rows = page.now.errors.map((line) => html("tr", {},
    html("td", {}, new Date(line.at * 1000).toLocaleTimeString("en-GB")), html("td", {}, String(line.status)), html("td", {}, line.model || "–"),
    html("td", {class: "times"}, `${whole(line.count)} ×`), html("td", {}, line.text, line.request_id ? html("span", {class: "faint"}, ` (request ${line.request_id})`) : null)));
  byId("errors").replaceChildren(...(rows.length ? rows : [html("tr", {}, html("td", {colspan: "5", class: "faint"}, "None"))]));
}

if (!document.hidden) connect();
