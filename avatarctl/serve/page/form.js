// The form of a new video: picture with its crop, voice, preset, estimate.

import { $, clock, post, say, size, span } from "./app.js";
import { startRecording } from "./record.js";

const chosen = { image: null, audio: null };
let models = [];
let limits = {};
let turn = 0;
let pending = {};

export function startForm(known, about) {
  models = known;
  limits = about;
  for (const model of models) {
    const option = new Option(model.ready ? model.id : `${model.id} (weights missing)`, model.id);
    $("preset").add(option);
  }
  $("preset").addEventListener("change", () => { showPreset(); look(); });
  $("face").addEventListener("change", look);
  $("form").addEventListener("change", (event) => { if (event.target.name) lookSoon(); });
  $("form").addEventListener("submit", (event) => { event.preventDefault(); queue(); });
  $("sample").addEventListener("click", useSamples);
  showPreset();
  dropZone("picture", (file) => take("image", file));
  dropZone("voice", (file) => take("audio", file));
  startRecording((file) => take("audio", file));
}

function preset() {
  return models.find((model) => model.id === $("preset").value) || models[0];
}

function showPreset() {
  const model = preset();
  const parts = [model.description, `${model.size}, ${model.steps} steps`];
  if (!model.ready) parts.push(`its weights are missing: ${model.lacks}`);
  $("preset-note").textContent = parts.join("; ");
}

function dropZone(name, taken) {
  const zone = $(`${name}-drop`);
  const chosenFile = () => { if ($(name).files.length) taken($(name).files[0]); };
  $(name).addEventListener("change", chosenFile);
  chosenFile(); // chosen before this ran, or kept by the browser when the page was loaded again
  zone.addEventListener("dragover", (event) => { event.preventDefault(); zone.classList.add("over"); });
  zone.addEventListener("dragleave", () => zone.classList.remove("over"));
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    if (event.dataTransfer.files.length) taken(event.dataTransfer.files[0]);
  });
}

/** Upload a file and show what the server sees in it. */
async function take(kind, file) {
  const note = kind === "image" ? $("picture-note") : $("voice-note");
  const most = kind === "image" ? limits.max_picture_bytes : limits.max_upload_bytes;
  fail("");
  if (kind === "image") $("crop").hidden = false;
  if (file.size > most) return refuse(kind, `${file.name} is ${size(file.size)}; the most that this server takes is ${size(most)}.`);
  note.textContent = `Sending ${file.name} …`;
  try {
    const kept = await upload(file, (share) => { note.textContent = `Sending ${file.name}: ${Math.round(100 * share)} %`; });
    if (kept.kind !== kind) return refuse(kind, kind === "image" ? "That is a recording: choose it under Voice." : "That is a picture: choose it under Picture.");
    chosen[kind] = kept;
    if (kind === "image") showPicture(kept);
    else showVoice(kept, file);
    await look();
  } catch (error) {
    refuse(kind, error.message);
  }
}

function refuse(kind, text) {
  chosen[kind] = null;
  (kind === "image" ? $("picture-note") : $("voice-note")).textContent = "";
  if (kind === "image") $("crop").hidden = true;
  fail(text);
}

function upload(file, progress) {
  return new Promise((done, failed) => {
    const request = new XMLHttpRequest();
    request.open("POST", "/v1/files");
    request.upload.addEventListener("progress", (event) => { if (event.lengthComputable) progress(event.loaded / event.total); });
    request.addEventListener("load", () => {
      let content = {};
      try { content = JSON.parse(request.responseText); } catch { /* said below */ }
      if (request.status === 200) done(content);
      else failed(new Error([content.error?.message || `The server answered ${request.status}.`, content.error?.hint].filter(Boolean).join("\n")));
    });
    request.addEventListener("error", () => failed(new Error("The server can't be reached. Is it still running?")));
    const form = new FormData();
    form.append("purpose", "user_data");
    form.append("file", file, file.name);
    request.send(form);
  });
}

function showPicture(kept) {
  $("crop").hidden = false;
  $("crop-picture").src = `/v1/files/${kept.id}/preview`;
  $("crop-drawing").replaceChildren();
  $("picture-note").textContent = `${kept.filename}, ${kept.width} x ${kept.height} pixels. Looking for faces …`;
}

function showVoice(kept, file) {
  const length = kept.duration_s ? `, ${clock(kept.duration_s)}` : "";
  $("voice-note").textContent = `${kept.filename || "recording"}${length}, ${size(kept.bytes)}`;
  $("voice-player").hidden = false;
  $("voice-player").src = URL.createObjectURL(file);
}

function settings() {
  const found = {};
  for (const [name, value] of new FormData($("form"))) if (typeof value === "string" && value.trim()) found[name] = value.trim();
  if (chosen.image) found.image = chosen.image.id;
  else delete found.face;
  if (chosen.audio) found.audio = chosen.audio.id;
  return found;
}

let timer = 0;
function lookSoon() {
  clearTimeout(timer);
  timer = setTimeout(look, 300);
}

/** Ask how the picture is framed and what the video would take. */
async function look() {
  const mine = ++turn;
  fail("");
  await Promise.all([lookAtPicture(mine), estimate(mine)]);
}

async function lookAtPicture(mine) {
  if (!chosen.image) return;
  const { audio, ...asked } = settings();
  try {
    const found = await post("/v1/videos/crop", asked);
    if (mine === turn) drawCrop(found);
  } catch (error) {
    if (mine === turn) fail(error.message);
  }
}

function drawCrop(found) {
  const drawing = $("crop-drawing");
  const [width, height] = [found.width, found.height];
  drawing.setAttribute("viewBox", `0 0 ${width} ${height}`);
  drawing.replaceChildren();
  const add = (name, attributes, text) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text) element.textContent = text;
    drawing.append(element);
  };
  const crop = found.crop || middle(found);
  if (crop) {
    const [l, t, r, b] = [crop.left, crop.top, crop.left + crop.width, crop.top + crop.height];
    add("path", { class: "dim", "fill-rule": "evenodd", d: `M0 0H${width}V${height}H0ZM${l} ${t}V${b}H${r}V${t}Z` });
    add("rect", { class: "crop", x: l, y: t, width: r - l, height: b - t });
  }
  const faces = found.faces || [];
  for (const face of faces) {
    const [x0, y0, x1, y1] = face.box;
    add("rect", { class: "face", x: x0, y: y0, width: x1 - x0, height: y1 - y0 });
    if (faces.length > 1) add("text", { class: "number", x: x0, y: Math.max(y0 - height / 60, height / 16), "font-size": height / 14 }, String(face.number));
  }
  const select = $("face");
  const before = select.value;
  select.replaceChildren(new Option("the largest", ""), ...faces.map((face) => new Option(`number ${face.number} from the left`, face.number)));
  select.value = faces.some((face) => String(face.number) === before) ? before : "";
  $("face-label").hidden = faces.length < 2;
  const how = found.fit === "pad" ? "All of the picture is used, with bars." : found.crop
    ? (found.crop.face ? `The part around the face is used${faces.length > 1 ? ` (number ${found.crop.face} of ${faces.length})` : ""}.` : "No face was found: the middle is used.")
    : "The middle of the picture is used.";
  $("picture-note").textContent = [`${chosen.image.filename}: ${how}`, ...chosen.image.notes, ...(found.crop?.warnings || [])].join("\n");
  $("crop-picture").alt = `Your picture. ${how}`;
}

function middle(found) {
  if (found.fit !== "cover") return null;
  const [w, h] = found.size.split("x").map(Number);
  const scale = Math.min(found.width / w, found.height / h);
  const [width, height] = [w * scale, h * scale];
  return { left: (found.width - width) / 2, top: (found.height - height) / 2, width, height };
}

async function estimate(mine) {
  if (!chosen.audio || (!chosen.image && !preset().own_picture)) {
    $("estimate").textContent = "";
    return;
  }
  try {
    const found = await post("/v1/videos/estimate", settings());
    if (mine !== turn) return;
    const plan = found.estimate;
    const time = plan.time_s === null ? "How long it takes is not known yet: nothing like it was made here." : `It takes about ${span(plan.time_s)} here.`;
    $("estimate").textContent = [`${span(plan.video_s)} of video. ${time}`, ...found.notes].join(" ");
  } catch (error) {
    if (mine !== turn) return;
    $("estimate").textContent = "";
    fail(error.message);
  }
}

function fail(text) {
  $("form-error").textContent = text;
}

async function queue() {
  fail("");
  if (!chosen.audio) return fail("Choose or record a voice first.");
  if (!chosen.image && !preset().own_picture) return fail("Choose a picture first.");
  $("queue").disabled = true;
  try {
    // The same wish after a lost connection has the same key: it is never made twice.
    const wish = settings();
    if (JSON.stringify(wish) !== pending.wish) pending = { wish: JSON.stringify(wish), key: crypto.randomUUID?.() || String(Math.random()) };
    const made = await post("/v1/videos", wish, { "Idempotency-Key": pending.key });
    pending = {};
    say(`Queued, number ${made.detail.position || 1} in line.`);
  } catch (error) {
    fail(error.message);
  } finally {
    $("queue").disabled = false;
  }
}

async function useSamples() {
  for (const [name, kind, type] of [["picture.png", "image", "image/png"], ["voice.wav", "audio", "audio/wav"]]) {
    const answer = await fetch(`/samples/${name}`);
    await take(kind, new File([await answer.blob()], name, { type }));
  }
  const ready = models.find((model) => model.ready && model.own_picture);
  if (ready) { $("preset").value = ready.id; showPreset(); await look(); }
}
