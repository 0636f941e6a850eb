// Whether the platform works, in one element of a page: from the file that the monitor writes. Only staff get it; the response to
// everybody else is empty, and the element stays hidden. The staff page loads this module, and the map page contains it.

const REFRESH_MS = 30_000;
// The monitor writes every ten seconds.
const MAX_AGE_SECONDS = 90;

/** Status and lines to show: what is wrong and what to do, the worst first; or the summary of a platform that works. */
export function describeHealth(health, now) {
  const age = Math.round((now - Date.parse(health.checked_at)) / 1000);
  const lines = health.conditions.map(({ severity, sentence, advice }) => `${severity.toUpperCase()}: ${sentence} ${advice}`);
  if (age > MAX_AGE_SECONDS) {
    const late = age < 5400 ? `${Math.round(age / 60)} min` : `${Math.round(age / 3600)} h`;
    return { status: "critical", lines: [`CRITICAL: the monitor has not reported for ${late}. Restart the Dagster UI, which it is part of. It reported last:`, health.summary] };
  }
  return { status: health.status, lines: lines.length ? lines : [health.summary] };
}

/** The line with what is between backticks as <code>. */
function withCode(line) {
  return line.split("`").map((part, number) => {
    if (number % 2 === 0) return part;
    const code = document.createElement("code");
    code.textContent = part;
    return code;
  });
}

async function refresh(element) {
  const response = await fetch("/status.json", { cache: "no-cache" });
  if (response.status !== 200) return;
  // The server's clock: that of the browser may be wrong.
  const now = Date.parse(response.headers.get("Date")) || Date.now();
  const { status, lines } = describeHealth(await response.json(), now);
  element.className = `health ${status}`;
  element.replaceChildren(...lines.flatMap((line, number) => (number ? [document.createElement("br"), ...withCode(line)] : withCode(line))));
  element.hidden = false;
}

/** Show it now and every half minute. A response that does not arrive changes nothing. */
export function showHealth(element) {
  const update = () => refresh(element).catch(() => {});
  update();
  setInterval(update, REFRESH_MS);
}
