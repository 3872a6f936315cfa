// The list of videos: one event stream for all of them; rows are changed in place, so that focus and players stay.

import { $, ask, clock, post, say, size, span } from "./app.js";
import { play } from "./live.js";

const known = new Map(); // id -> the video
const rows = new Map(); // id -> its row
const players = new Map(); // id -> what stops its player
const STAGES = {
  starting: "Starting", loading: "Loading the networks", sound: "Reading the recording", conditions: "Preparing picture and text",
  sampling: "Rendering", decoding: "Writing pictures", joining: "Finishing",
};

let measures = false;

export function startJobs(about) {
  measures = Boolean(about?.measures);
  const source = new EventSource("/v1/events");
  let here = new Set();
  source.addEventListener("open", () => { here = new Set(); });
  source.addEventListener("video", (event) => {
    const video = JSON.parse(event.data);
    here.add(video.id);
    change(video);
  });
  source.addEventListener("deleted", (event) => forget(JSON.parse(event.data).id));
  source.addEventListener("ready", () => {
    for (const id of [...known.keys()]) if (!here.has(id)) forget(id);
    summary();
  });
  source.addEventListener("error", () => {
    $("server").textContent = "The connection to the server is lost. Renders continue without the page; trying again …";
    if (source.readyState === EventSource.CLOSED) setTimeout(() => startJobs(about), 5000);
  });
}

function summary() {
  const counts = {};
  for (const video of known.values()) counts[video.status] = (counts[video.status] || 0) + 1;
  const words = [["in_progress", "rendering"], ["queued", "waiting"], ["completed", "finished"], ["failed", "failed or cancelled"]];
  const parts = words.filter(([status]) => counts[status]).map(([status, word]) => `${counts[status]} ${word}`);
  $("server").textContent = parts.length ? parts.join(", ") : "Ready";
  $("empty").hidden = known.size > 0;
}

function change(video) {
  const before = known.get(video.id);
  known.set(video.id, video);
  if (!rows.has(video.id)) rows.set(video.id, newRow(video.id));
  fill(rows.get(video.id), video, before);
  sort();
  summary();
  if (before && before.status !== video.status) {
    const words = { in_progress: "is being rendered", completed: "is finished", failed: "did not work", queued: "waits" };
    say(`${title(video)} ${words[video.status]}.`);
  }
}

function forget(id) {
  players.get(id)?.();
  players.delete(id);
  rows.get(id)?.remove();
  rows.delete(id);
  known.delete(id);
  summary();
}

/** At work first, then the line in its order, then what is over, the newest first. */
function sort() {
  const group = (video) => ({ in_progress: 0, queued: 1 }[video.status] ?? 2);
  const place = (video) => video.detail.position || 1e6;
  const order = [...known.values()].sort((a, b) => group(a) - group(b)
    || (group(a) === 1 ? place(a) - place(b) : 0) || (group(a) === 2 ? b.created_at - a.created_at : a.created_at - b.created_at));
  const list = $("jobs");
  order.forEach((video, index) => {
    const row = rows.get(video.id);
    if (list.children[index] !== row) {
      const focused = row.contains(document.activeElement) ? document.activeElement : null;
      list.insertBefore(row, list.children[index] || null);
      focused?.focus();
    }
  });
}

function newRow(id) {
  const row = $("job").content.firstElementChild.cloneNode(true);
  row.dataset.id = id;
  row.querySelector(".buttons").addEventListener("click", (event) => {
    const verb = event.target.dataset?.verb;
    if (verb) act(id, verb, row);
  });
  return row;
}

function title(video) {
  const when = new Date(video.created_at * 1000);
  const day = when.toDateString() === new Date().toDateString() ? "" : `${when.toLocaleDateString()} `;
  return `${video.detail.names.audio || "recording"}, ${day}${when.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })}`;
}

function length(video) {
  const seconds = Number(video.seconds);
  return seconds < 10 ? `${Math.round(seconds * 10) / 10} s` : clock(seconds);
}

function status(video) {
  const detail = video.detail;
  if (video.status === "completed") return `Finished: ${length(video)} of video${detail.wall_s ? `, made in ${span(detail.wall_s)}` : ""}`;
  if (video.status === "failed") return detail.state === "cancelled" ? "Cancelled" : "Failed";
  if (video.status === "in_progress") {
    const parts = [STAGES[detail.stage] || "Rendering"];
    if (detail.state === "pausing") parts[0] = "Pausing: saving what is done";
    if (detail.state === "cancelling") parts[0] = "Cancelling: saving what is done";
    if (detail.passes_done !== null) parts.push(`${video.progress} %`);
    if (detail.left_s !== null) parts.push(`${span(detail.left_s)} left`);
    if (detail.finished_video_s) parts.push(`${span(detail.finished_video_s)} of ${span(Number(video.seconds))} can be watched`);
    return parts.join(", ");
  }
  if (detail.state === "paused") return `Paused${video.progress ? ` at ${video.progress} %` : ""}`;
  const where = detail.position ? `, number ${detail.position} in line` : "";
  const state = { waiting: "Waiting", "interrupted, continues": "Interrupted; continues when it is its turn" }[detail.state] || detail.state;
  const time = detail.estimate.time_s ? `, takes about ${span(detail.estimate.time_s)}` : "";
  return `${state}${where}${time}`;
}

function fill(row, video, before) {
  const detail = video.detail;
  row.dataset.status = video.status;
  row.dataset.state = detail.state;
  row.querySelector(".name").textContent = title(video);
  row.querySelector(".status").textContent = status(video);
  const bar = row.querySelector("progress");
  bar.value = video.progress;
  bar.hidden = video.status !== "in_progress" && !(video.progress > 0 && video.progress < 100);
  bar.setAttribute("aria-label", `Progress of ${title(video)}`);
  const problem = row.querySelector(".problem");
  problem.hidden = !video.error || detail.state === "cancelled";
  problem.textContent = video.error ? [video.error.message, video.error.hint].filter(Boolean).join("\n") : "";
  row.querySelector(".notes").replaceChildren(...detail.notes.map((note) => { const item = document.createElement("li"); item.textContent = note; return item; }));
  const stamp = `${video.status}-${Math.floor(detail.finished_video_s || 0)}`;
  const picture = row.querySelector(".picture");
  if (picture.dataset.stamp !== stamp) {
    picture.dataset.stamp = stamp;
    picture.src = `/v1/videos/${video.id}/content?variant=thumbnail&at=${encodeURIComponent(stamp)}`;
    picture.alt = video.status === "completed" ? `First picture of ${title(video)}` : `Newest picture of ${title(video)}`;
  }
  buttons(row, video);
  numbers(row.querySelector("dl"), video);
  if (before && before.status !== video.status && video.status === "failed") closePlayer(video.id, row);
}

function buttons(row, video) {
  const state = video.detail.state;
  const can = {
    watch: video.status === "completed" || (video.status !== "failed" && video.detail.finished_video_s > 0),
    pause: video.status === "in_progress" ? state.startsWith("rendering") : video.status === "queued" && state !== "paused",
    resume: ["paused", "pausing", "cancelling", "cancelled"].includes(state) || video.status === "failed",
    up: video.status === "queued" && video.detail.position > 1,
    down: video.status === "queued" && state !== "paused" && [...known.values()].some((other) => other.detail.position > video.detail.position),
    cancel: ["in_progress", "queued"].includes(video.status) && state !== "cancelling",
    measure: measures && video.status === "completed" && !video.detail.measuring,
    delete: true,
  };
  for (const button of row.querySelectorAll("button[data-verb]")) {
    const verb = button.dataset.verb;
    const hide = !can[verb];
    if (hide && !button.hidden && document.activeElement === button) row.querySelector("button[data-verb=delete]").focus();
    button.hidden = hide;
    if (verb === "watch") button.textContent = players.has(video.id) ? "Close" : video.status === "completed" ? "Play" : "Watch what is finished";
    if (verb === "resume") button.textContent = video.status === "failed" ? "Try again" : "Resume";
    button.setAttribute("aria-label", `${button.textContent}: ${title(video)}`);
  }
  const link = row.querySelector(".download");
  link.hidden = video.status !== "completed";
  link.href = `/v1/videos/${video.id}/content?download=1`;
  link.setAttribute("aria-label", `Download ${title(video)}`);
}

function numbers(list, video) {
  const detail = video.detail;
  const pairs = [
    ["Preset", detail.preset], ["Size", detail.video_size], ["Seed", video.seed], ["Prompt", video.prompt],
    ...Object.entries(detail.settings).filter(([name]) => !["prompt", "seed"].includes(name)).map(([name, value]) => [name, typeof value === "object" ? JSON.stringify(value) : value]),
    ["Passes", detail.passes_total], ["File", `about ${size(detail.estimate.video_bytes)}`], ["Identifier", video.id],
    ...(detail.measuring ? [["Measured", "being measured …"]] : evaluation(detail.evaluation)),
  ];
  const text = JSON.stringify(pairs);
  if (list.dataset.text === text) return;
  list.dataset.text = text;
  list.replaceChildren(...pairs.flatMap(([name, value]) => {
    const [dt, dd] = [document.createElement("dt"), document.createElement("dd")];
    dt.textContent = name;
    dd.textContent = value;
    return [dt, dd];
  }));
}

const MEASURES = [ // key of the row, what it is, how it is written
  ["face.share", "A face is seen in", (value) => `${Math.round(100 * value)} % of the pictures`],
  ["lips.correlation", "Lips follow the voice", (value) => `${value.toFixed(2)} (1 is exact, 0 is chance)`],
  ["lips.lag_s", "Lips are late by", (value) => `${value.toFixed(2)} s`],
  ["lips.still_in_speech", "Lips are still in", (value) => `${Math.round(100 * value)} % of the speech`],
  ["identity.mean", "Distance from the face of the picture", (value) => `${value.toFixed(2)} on average`],
  ["identity.worst", "The same at its worst", (value) => value.toFixed(2)],
  ["picture.sharpness", "Sharpness", (value) => value.toFixed(2)],
  ["picture.colour_slope_per_minute", "Colour drifts by", (value) => `${value.toFixed(2)} a minute`],
  ["findings", "What stands out", (value) => value],
];

function evaluation(row) {
  if (!row) return [];
  if (row.error) return [["Measured", row.error]];
  const unknown = row["lips.correlation"] === undefined ? [["Lips follow the voice", "too little speech, or no face, to say"]] : [];
  return unknown.concat(MEASURES.filter(([key]) => row[key] !== undefined && row[key] !== "").map(([key, name, write]) => [name, write(row[key])]));
}

async function act(id, verb, row) {
  const video = known.get(id);
  const base = `/v1/videos/${id}`;
  const error = row.querySelector(".problem");
  try {
    if (verb === "watch") return toggle(video, row);
    if (verb === "delete") {
      if (!(await sure(`Delete ${title(video)}? Its picture, recording and video are removed.`))) return;
      await ask(base, { method: "DELETE" });
      forget(id);
      say("Deleted.");
      $("videos").focus();
      return;
    }
    if (verb === "up" || verb === "down") {
      const line = [...known.values()].filter((one) => one.detail.position).sort((a, b) => a.detail.position - b.detail.position);
      const place = line.findIndex((one) => one.id === id);
      const other = line[place + (verb === "up" ? -1 : 1)];
      if (other) change(await post(`${base}/move`, verb === "up" ? { before: other.id } : { after: other.id }));
      say(`Number ${known.get(id).detail.position} in line.`);
      return;
    }
    change(await post(`${base}/${verb === "measure" ? "evaluate" : verb}`));
    if (verb === "measure") row.querySelector(".more").open = true;
  } catch (problem) {
    error.hidden = false;
    error.textContent = problem.message;
  }
}

function sure(text) {
  const dialog = $("sure");
  $("sure-text").textContent = text;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((done) => dialog.addEventListener("close", () => done(dialog.returnValue === "yes"), { once: true }));
}

function toggle(video, row) {
  if (players.has(video.id)) { closePlayer(video.id, row); return; }
  const place = row.querySelector(".player");
  const element = document.createElement("video");
  element.controls = true;
  element.playsInline = true;
  element.setAttribute("aria-label", `${title(video)}, ${video.status === "completed" ? "finished" : "what is finished so far"}`);
  place.replaceChildren(element);
  place.hidden = false;
  players.set(video.id, play(element, video, (text) => { row.querySelector(".status").textContent = text; }));
  buttons(row, video);
  element.focus();
}

function closePlayer(id, row) {
  players.get(id)?.();
  players.delete(id);
  const place = row.querySelector(".player");
  place.hidden = true;
  place.replaceChildren();
  if (known.has(id)) buttons(row, known.get(id));
}
