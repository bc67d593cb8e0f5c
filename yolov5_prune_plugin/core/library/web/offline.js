// Keeps the page's files, so that it works without a network once it was opened; newer ones are taken when there is one.
const KEPT = "detector";

self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));
self.addEventListener("fetch", (event) => {
  if (event.request.method !== "GET" || new URL(event.request.url).origin !== location.origin) return;
  event.respondWith(
    (async () => {
      const cache = await caches.open(KEPT);
      try {
        const found = await fetch(event.request);
        if (found.ok) await cache.put(event.request, found.clone());
        return found;
      } catch (error) {
        const kept = await cache.match(event.request, { ignoreSearch: true });
        if (kept) return kept;
        throw error;
      }
    })(),
  );
});
