// Play a video: a finished one as a file, one that is rendered by appending its fragments as they come (Media Source).

/** Play in an element; return a function that stops it. */
export function play(element, video, tell) {
  if (video.status === "completed") {
    element.src = `/v1/videos/${video.id}/content`;
    element.play().catch(() => {});
    return () => { element.pause(); element.removeAttribute("src"); element.load(); };
  }
  const list = `/v1/videos/${video.id}/live.m3u8`;
  if (!window.MediaSource) { // phones of Apple play the playlist themselves
    element.src = list;
    element.play().catch(() => {});
    return () => { element.removeAttribute("src"); element.load(); };
  }
  const stopping = new AbortController();
  follow(element, video.id, stopping.signal).catch((error) => { if (!stopping.signal.aborted) tell(error.message); });
  return () => { stopping.abort(); element.pause(); element.removeAttribute("src"); element.load(); };
}

async function follow(element, id, signal) {
  const base = `/v1/videos/${id}/live`;
  const text = async (path) => {
    const answer = await fetch(path, { signal });
    if (answer.status === 425 || answer.status === 429) return null;
    if (!answer.ok) throw new Error("The live view can't be played.");
    return answer.text();
  };
  const pause = (ms) => new Promise((done) => setTimeout(done, ms));
  let master = await text(`${base}/master.m3u8`);
  while (master === null && !signal.aborted) { await pause(1500); master = await text(`${base}/master.m3u8`); }
  if (signal.aborted) return;
  const codecs = /CODECS="([^"]+)"/.exec(master)[1];
  const type = `video/mp4; codecs="${codecs}"`;
  if (!MediaSource.isTypeSupported(type)) throw new Error(`This browser can't play ${codecs}; download the video when it is finished.`);
  const source = new MediaSource();
  element.src = URL.createObjectURL(source);
  await new Promise((done) => source.addEventListener("sourceopen", done, { once: true }));
  URL.revokeObjectURL(element.src);
  const buffer = source.addSourceBuffer(type);
  const settled = () => new Promise((done, failed) => {
    buffer.addEventListener("updateend", done, { once: true });
    buffer.addEventListener("error", () => failed(new Error("The live view can't be played.")), { once: true });
  });
  /** Browsers hold some minutes of a video: what was seen makes room for what comes. */
  const append = async (content) => {
    for (;;) {
      try {
        buffer.appendBuffer(content);
        return settled();
      } catch (error) {
        if (error.name !== "QuotaExceededError") throw error;
        const seen = element.currentTime - 20;
        if (buffer.buffered.length && buffer.buffered.start(0) < seen) {
          buffer.remove(0, seen);
          await settled();
        } else await pause(2000);
        if (signal.aborted) return null;
      }
    }
  };
  const put = async (path) => {
    while (!signal.aborted) {
      const answer = await fetch(path, { signal });
      if (answer.ok) return append(await answer.arrayBuffer());
      if (![425, 429, 503].includes(answer.status)) throw new Error("The live view can't be played.");
      await pause(1500);
    }
    return null;
  };
  await put(`${base}/init.mp4`);
  let next = 0;
  let started = false;
  while (!signal.aborted && source.readyState === "open") {
    const playlist = await text(`${base}/media.m3u8`);
    const count = playlist === null ? 0 : (playlist.match(/\.m4s/g) || []).length;
    while (next < count && !signal.aborted) await put(`${base}/${next++}.m4s`);
    if (count && !started) { started = true; element.play().catch(() => {}); }
    if (playlist !== null && playlist.includes("#EXT-X-ENDLIST") && next === count) {
      source.endOfStream();
      return;
    }
    await pause(1500);
  }
}
