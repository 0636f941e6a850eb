// Loads tiles again after errors, with backoff, and counts those that are missing. The notice about them is in `main.js`.

const DELAYS_SECONDS = [1, 2, 4, 8, 16]; // before each retry, plus up to half of it, so that not all clients retry at the same time
const NOT_IMAGES = "absent"; // the map has no tiles: retrying does not help

/**
 * Watch the tiles of an image source. `on`: missing(count, retryAll) whenever the number of missing tiles changes, and absent() if
 * the map has no tiles. `retryAll` is null while retries are pending. Returns a function that ends the watch.
 */
export function retryTiles(source, on) {
  const failures = new Map(); // by tile that is missing: number of failed attempts
  let isEnded = false;
  let isProbed = false; // whether the map has tiles at all is asked once, without a delay

  function report() {
    // A tile counts when its first retry failed too: most errors last less than that.
    const counts = [...failures.values()].filter((count) => count > 1);
    const isPending = [...failures.values()].some((count) => count <= DELAYS_SECONDS.length);
    if (!isEnded) on.missing(counts.length, isPending ? null : retryAll);
  }

  function retryAll() {
    const tiles = [...failures.keys()];
    failures.clear();
    report();
    for (const tile of tiles) fail(tile);
  }

  function addressOf(tile) {
    return source.getTileUrlFunction()(tile.getTileCoord(), 1, source.getProjection());
  }

  async function fail(tile) {
    const count = (failures.get(tile) ?? 0) + 1;
    failures.set(tile, count);
    report();
    if (count > DELAYS_SECONDS.length) return;
    if (!isProbed && on.absent) {
      isProbed = true;
      if ((await check(addressOf(tile))) === NOT_IMAGES) {
        if (!isEnded) on.absent();
        return;
      }
    }
    await wait(DELAYS_SECONDS[count - 1] * (1 + Math.random() / 2));
    if (isEnded || !failures.has(tile)) return;
    const status = await check(addressOf(tile));
    if (isEnded || !failures.has(tile)) return;
    if (status === "ok") tile.load(); // from the browser's cache
    else if (status === NOT_IMAGES && on.absent) on.absent();
    else fail(tile);
  }

  source.on("tileloaderror", ({ tile }) => fail(tile));
  source.on("tileloadend", ({ tile }) => failures.delete(tile) && report());
  return () => {
    on.missing(0, null);
    isEnded = true;
  };
}

/** "ok" for an image, "absent" for a 404 or another document, "error" when the server fails or does not respond. */
async function check(address) {
  try {
    const response = await fetch(address);
    if (response.ok && /^image\//.test(response.headers.get("Content-Type"))) {
      await response.blob();
      return "ok";
    }
    return response.ok || response.status === 404 ? NOT_IMAGES : "error";
  } catch {
    return "error";
  }
}

const wait = (seconds) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
