"use strict";
const INTERVAL_MS = 1000;
const TIMEOUT_MS = 3000;

const byId = (id) => document.getElementById(id);

function text(id, value) {
  byId(id).textContent = value;
}

function bytes(n) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (n >= 1024 && unit + 1 < units.length) {
    n /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? n : n.toFixed(1)} ${units[unit]}`;
}

function time(ns) {
  return new Date(ns / 1e6).toISOString().replace("T", " ").replace("Z", " UTC");
}

function seconds(ns) {
  if (ns >= 1e9) return `${(ns / 1e9).toFixed(1)} s`;
  return ns >= 1e6 ? `${(ns / 1e6).toFixed(1)} ms` : `${(ns / 1e3).toFixed(0)} \u00b5s`;
}

function cell(kind, content) {
  const element = document.createElement(kind);
  if (content instanceof Node) element.append(content);
  else element.textContent = content;
  return element;
}

function table(id, titles, rows) {
  const row = (kind, cells) => {
    const element = document.createElement("tr");
    element.append(...cells.map((content) => cell(kind, content)));
    return element;
  };
  byId(id).replaceChildren(row("th", titles), ...rows.map((cells) => row("td", cells)));
}

function bar(value, whole) {
  const element = document.createElement("progress");
  element.max = Math.max(whole, 1);
  element.value = value;
  return element;
}

function facts(s) {
  const log = s.log;
  const zero = s.gate.released ? `${((100 * s.gate.released_zero_wait) / s.gate.released).toFixed(1)} %` : "-";
  const pairs = [
    ["Role", `${s.role}, epoch ${s.epoch}, primary ${s.primary ?? "-"}`],
    ["Ready", s.ready ? "yes" : `no: ${s.not_ready_because.join("; ")}`],
    ["Service", `${s.service.name} ${s.service.vip.join(" ")}, ${s.service.app_running ? "running" : "not running"}`],
    ["Log", `${bytes(log.end - log.start)} of ${bytes(log.capacity_bytes)}, end ${log.end}`],
    ["Not committed", bytes(Math.max(0, log.end - log.committed))],
    ["Not applied", bytes(Math.max(0, log.end - log.applied))],
    ["Gate", `${s.gate.open ? "open" : "closed"}, policy ${s.gate.policy}, ${s.gate.waiting_frames} waiting`],
    ["Released", `${s.gate.released} frames, ${zero} without a wait`],
  ];
  byId("facts").replaceChildren(...pairs.flatMap(([name, value]) => [cell("dt", name), cell("dd", value)]));
}

function peers(s) {
  const ago = (ms) => (ms === null ? "never" : `${ms} ms`);
  table(
    "peers",
    ["Node", "Role", "Heard", "Replica path", "Second path", "Lag", "Clone", "Commit set"],
    s.peers.map((p) => [
      p.name,
      p.role ?? "-",
      p.alive ? "yes" : "no",
      ago(p.replica_path_ms),
      ago(p.second_path_ms),
      bytes(p.lag_bytes),
      p.clone_ready ? "ready" : "not ready",
      s.role === "primary" ? (p.in_commit_set ? "in" : `out${p.evicted_because ? `: ${p.evicted_because}` : ""}`) : "-",
    ]),
  );
}

function waits(s) {
  const { bounds_ns: bounds, counts } = s.gate.waits;
  const most = Math.max(0, ...counts);
  const rows = counts
    .map((count, i) => [i < bounds.length ? `up to ${seconds(bounds[i])}` : "longer", String(count), bar(count, most)])
    .filter((_, i) => counts[i] > 0);
  table("waits", ["Wait", "Frames", ""], rows);
}

function takeovers(all) {
  const rows = all
    .slice(-8)
    .reverse()
    .map((t) => [String(t.epoch), time(t.unix_ns), t.cause, t.took_us === null ? "by another node" : seconds(t.took_us * 1e3)]);
  table("takeovers", ["Epoch", "Noticed", "Cause", "Until the gate was open"], rows);
}

function show(s) {
  const heading = byId("verdict");
  heading.className = s.verdict;
  heading.textContent = s.verdict;
  document.title = `${s.verdict}: ${s.node} of ${s.cluster}`;
  text("reasons", s.reasons.join("\n"));
  text("node", `node ${s.node} of cluster ${s.cluster}, version ${s.version}`);
  facts(s);
  peers(s);
  waits(s);
  takeovers(s.takeovers);
  const newest = s.timeline.slice(-12).reverse();
  table("events", ["Time", "Epoch", "Event", ""], newest.map((e) => [time(e.unix_ns), String(e.epoch), e.event, e.detail]));
  text("asked", `as of ${new Date().toISOString()}`);
  document.body.classList.remove("stale");
}

function lost(why) {
  const heading = byId("verdict");
  heading.className = "lost";
  heading.textContent = "no answer from the daemon";
  text("reasons", String(why));
  document.body.classList.add("stale");
}

async function ask() {
  try {
    const answer = await fetch("status.json", { signal: AbortSignal.timeout(TIMEOUT_MS) });
    const said = await answer.text();
    if (!answer.ok) throw new Error(said);
    show(JSON.parse(said).status);
  } catch (why) {
    lost(why);
  }
  setTimeout(ask, INTERVAL_MS);
}

ask();
