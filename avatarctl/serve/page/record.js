// Record a voice in the browser.

import { $, clock, say } from "./app.js";

export function startRecording(taken) {
  const button = $("record");
  if (!navigator.mediaDevices || !window.MediaRecorder) {
    button.disabled = true;
    button.textContent = "Recording needs https or this machine's own address";
    return;
  }
  let recorder = null;
  let timer = 0;
  button.addEventListener("click", async () => {
    if (recorder) { recorder.stop(); return; }
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ audio: true });
    } catch {
      $("form-error").textContent = "The browser gave no microphone: allow it for this page, or choose a recording.";
      return;
    }
    const parts = [];
    recorder = new MediaRecorder(stream);
    recorder.addEventListener("dataavailable", (event) => parts.push(event.data));
    recorder.addEventListener("stop", () => {
      clearInterval(timer);
      for (const track of stream.getTracks()) track.stop();
      const type = recorder.mimeType || "audio/webm";
      recorder = null;
      button.textContent = "Record your voice";
      $("record-time").textContent = "";
      say("Recorded.");
      taken(new File(parts, `recording.${type.includes("mp4") ? "m4a" : "webm"}`, { type }));
    });
    recorder.start();
    const began = Date.now();
    timer = setInterval(() => { $("record-time").textContent = clock((Date.now() - began) / 1000); }, 500);
    button.textContent = "Stop recording";
    say("Recording.");
  });
}
