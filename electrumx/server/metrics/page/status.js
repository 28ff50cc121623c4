"use strict";

// Polls /status.json and shows it.  Texts are set as text, never as markup: some of them come from
// the node.

const PERIOD_MSEC = 2000;
const TIMEOUT_MSEC = 10000;
const PLOT_POINTS = 150;
const STORES = { utxo: "UTXOs", hist: "Histories", meta: "Headers and hashes" };
const PEERS = [
  ["good", "Verified"],
  ["stale", "Verified earlier"],
  ["never", "Not reached yet"],
  ["bad", "Bad"],
  ["total", "All"],
];
const ROWS = 12;
const PILLS = { serving: "good", "node lost": "bad", stopping: "bad" };
const SVG = "http://www.w3.org/2000/svg";

const rates = []; // {time, perSec}
let lastReport = 0;
let last = null;

const byId = (id) => document.getElementById(id);
const number = (value, digits = 0) =>
  value === null || value === undefined
    ? "unknown"
    : value.toLocaleString("en", { maximumFractionDigits: digits });

const height = (value) => (value < 0 ? "none yet" : number(value));

function setText(id, text) {
  const element = byId(id);
  // Unchanged text is not set again, so that screen readers do not repeat it.
  if (element.textContent !== text) element.textContent = text;
}

function bytes(count) {
  if (count === null || count === undefined) return "unknown";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (count >= 1000 && unit < units.length - 1) {
    count /= 1000;
    unit += 1;
  }
  return `${number(count, unit && count < 100 ? 1 : 0)} ${units[unit]}`;
}

function duration(secs) {
  if (secs === null || secs === undefined) return "unknown";
  if (secs > 0 && secs < 1) return `${number(secs * 1000, 1)} ms`;
  if (secs < 90) return `${number(secs, secs < 10 ? 1 : 0)} s`;
  if (secs < 5400) return `${number(secs / 60)} min`;
  if (secs < 129600) return `${number(secs / 3600, 1)} h`;
  return `${number(secs / 86400, 1)} d`;
}

const ago = (now, time) => `${duration(Math.max(0, now - time))} ago`;

function pairs(id, rows) {
  const list = byId(id);
  list.replaceChildren(
    ...rows.flatMap(([name, value]) => {
      const term = document.createElement("dt");
      const description = document.createElement("dd");
      term.textContent = name;
      description.textContent = value;
      return [term, description];
    }),
  );
}

function table(id, rows, numbersFrom, empty) {
  const body = byId(id);
  if (!rows.length) {
    const row = document.createElement("tr");
    const cell = document.createElement("td");
    cell.colSpan = body.parentElement.tHead.rows[0].cells.length;
    cell.className = "quiet";
    cell.textContent = empty;
    row.append(cell);
    body.replaceChildren(row);
    return;
  }
  body.replaceChildren(
    ...rows.map((values) => {
      const row = document.createElement("tr");
      values.forEach((value, column) => {
        const cell = document.createElement("td");
        if (column >= numbersFrom) cell.className = "n";
        cell.textContent = value;
        row.append(cell);
      });
      return row;
    }),
  );
}

function shape(name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

function plotRates() {
  const plot = byId("rate-plot");
  const shapes = [shape("line", { x1: 0, y1: 39.5, x2: 100, y2: 39.5 })];
  if (rates.length > 1) {
    const top = Math.max(...rates.map((rate) => rate.perSec), 1);
    const first = rates[0].time;
    const span = rates[rates.length - 1].time - first;
    const points = rates.map(
      (rate) => `${((rate.time - first) / span) * 100},${39 - (rate.perSec / top) * 37}`,
    );
    shapes.push(shape("polyline", { points: points.join(" ") }));
    setText("rate-from", `${duration(span)} ago; at most ${number(top, 1)}`);
  }
  plot.replaceChildren(...shapes);
}

function plotFees(histogram) {
  const plot = byId("fees");
  const total = histogram.reduce((sum, [, size]) => sum + size, 0);
  const top = Math.max(...histogram.map(([, size]) => size), 1);
  const width = 100 / Math.max(histogram.length, 1);
  const shapes = [shape("line", { x1: 0, y1: 39.5, x2: 100, y2: 39.5 })];
  histogram.forEach(([, size], index) => {
    const height = Math.max(1, (size / top) * 38);
    shapes.push(
      shape("rect", { x: index * width + 0.3, y: 39.5 - height, width: Math.max(width - 0.6, 0.3), height }),
    );
  });
  plot.replaceChildren(...shapes);
  const rate = (entry) => `${number(entry[0], 2)} sat/vB`;
  setText("fee-high", histogram.length ? rate(histogram[0]) : "no transactions");
  setText("fee-low", histogram.length > 1 ? rate(histogram[histogram.length - 1]) : "");
  return total;
}

function showIndex(report) {
  const { server, progress, node } = report;
  setText("title", `ElectrumX · ${server.coin} ${server.net}`);
  const head = `${report.state}${progress && progress.first_sync ? ` ${number(progress.percent)} %` : ""}`;
  document.title = `${head} · ElectrumX ${server.coin} ${server.net}`;
  setText("version", `${server.version}, ${server.db_engine}`);
  setText("uptime", `up ${duration(report.uptime_s)}`);
  setText("state", report.state);
  byId("state").className = `pill ${PILLS[report.state] || ""}`;
  setText("status", report.status);
  const bar = byId("bar");
  const building = progress !== null && (progress.first_sync || report.state === "catching up");
  bar.hidden = !building;
  if (building) {
    bar.value = progress.percent;
    const eta = progress.eta_s === null ? "" : `, about ${duration(progress.eta_s)} to go`;
    const phase = progress.phase ? `${progress.phase}: ` : "";
    const text = `${phase}${number(progress.percent, 1)} %${eta}`;
    bar.setAttribute("aria-valuetext", text);
    setText("progress", `${text}; ${number(progress.transactions)} transactions`);
  } else {
    setText("progress", progress ? `${number(progress.transactions)} transactions` : "");
  }
  const failure = byId("node-failure");
  failure.hidden = !node.failing;
  if (node.failing && node.last_failure) {
    const { cause, method, text, age_s } = node.last_failure;
    setText("node-failure", `The node at ${node.address}: ${cause} (${method}): ${text}, ${duration(age_s)} ago`);
  }
  pairs("chain", [
    ["Height", height(report.height)],
    ...(building ? [["Processed", height(progress.processed_height)]] : []),
    ["Node's height", number(report.node_height)],
    ["Behind", report.lag === null ? "unknown" : `${number(report.lag)} blocks`],
    ["Node's last reply", report.node_age_s === null ? "none yet" : `${duration(report.node_age_s)} ago`],
    ["Node", node.address],
    ["Ready for wallets", report.ready ? "yes" : "no"],
  ]);
}

function showLoad(report) {
  const { sessions, requests } = report;
  const perSec = requests.reduce((sum, rate) => sum + rate.per_s, 0);
  rates.push({ time: report.time, perSec });
  if (rates.length > PLOT_POINTS) rates.shift();
  plotRates();
  const traffic = { in: "unknown", out: "unknown" };
  if (last && report.time > last.time) {
    const secs = report.time - last.time;
    const difference = (name) => Math.max(0, sessions[name] - last.sessions[name]) / secs;
    traffic.in = `${bytes(difference("received_bytes"))}/s`;
    traffic.out = `${bytes(difference("sent_bytes"))}/s`;
  }
  pairs("rate", [
    ["Requests", `${number(perSec, 1)}/s`],
    ["Received", traffic.in],
    ["Sent", traffic.out],
  ]);
  const subscriptions = Object.entries(sessions.subscriptions);
  pairs("sessions", [
    ["Connected", `${number(sessions.count)} of ${number(sessions.maximum)}`],
    ["Slowed down by cost", number(sessions.throttled)],
    ...subscriptions.map(([kind, count]) => [`Subscriptions, ${kind}`, number(count)]),
  ]);
  table(
    "by-service",
    sessions.by_service.map((row) => [row.service, row.protocol, number(row.count)]),
    2,
    "no sessions",
  );
  table(
    "methods",
    requests
      .slice(0, ROWS)
      .map((rate) => [
        rate.method,
        number(rate.per_s, 2),
        `≤ ${duration(rate.median_s)}`,
        `≤ ${duration(rate.p99_s)}`,
      ]),
    1,
    "no requests in the last minute",
  );
}

function showRest(report) {
  const { mempool, disk } = report;
  const waiting = plotFees(mempool.fee_histogram);
  pairs("mempool", [
    ["Transactions", number(mempool.transactions)],
    ["Size", bytes(mempool.bytes)],
    ["In the fee histogram", `${bytes(waiting).replace(/B$/, "vB")}`],
    ["Up to date", mempool.behind ? "no" : "yes"],
  ]);
  const expiry = report.certificate_expiry;
  pairs("health", [
    ...Object.entries(report.loop_lag).map(([name, msec]) => [
      `Event loop, ${name.replace(/ ms$/, "")}`,
      `${number(msec, 1)} ms`,
    ]),
    ["Switches between nodes", number(report.node.url_switches)],
    ["Certificate", expiry === null ? "none" : expiry < report.time ? "expired" : `expires in ${duration(expiry - report.time)}`],
    ...report.server.services.map((service) => [
      `Service ${service.protocol}`,
      service.listening ? "open" : "not open",
    ]),
  ]);
  pairs("disk", [
    ...Object.entries(disk.stores || {}).map(([store, size]) => [STORES[store] || store, bytes(size)]),
    ["Free", bytes(disk.free)],
  ]);
  pairs("peers", PEERS.map(([state, name]) => [name, number(report.peers[state] || 0)]));
  const newest = (rows) => [...rows].reverse().slice(0, ROWS);
  table(
    "flushes",
    newest(report.flushes).map((flush) => [
      ago(report.time, flush.time),
      number(flush.height),
      duration(flush.secs),
    ]),
    1,
    "none since the start",
  );
  table(
    "reorgs",
    newest(report.reorgs).map((reorg) => [
      ago(report.time, reorg.time),
      number(reorg.first_height),
      number(reorg.blocks),
    ]),
    1,
    "none since the start",
  );
}

function show(report) {
  byId("lost").hidden = true;
  lastReport = Date.now();
  showIndex(report);
  showLoad(report);
  showRest(report);
  last = report;
}

function showLost() {
  const since = lastReport ? ` for ${duration((Date.now() - lastReport) / 1000)}` : "";
  setText("lost", `The server does not answer${since}. This page tries again.`);
  byId("lost").hidden = false;
  setText("state", "no answer");
  byId("state").className = "pill bad";
  document.title = "no answer · ElectrumX";
}

async function poll() {
  try {
    const reply = await fetch("/status.json", {
      cache: "no-store",
      signal: AbortSignal.timeout(TIMEOUT_MSEC),
    });
    if (!reply.ok) throw new Error(`status ${reply.status}`);
    show(await reply.json());
  } catch (error) {
    showLost();
  }
}

async function follow() {
  for (;;) {
    // A page that nobody looks at asks for nothing.
    if (!document.hidden) await poll();
    await new Promise((resolve) => setTimeout(resolve, PERIOD_MSEC));
  }
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) poll();
});
follow();
