// Builds the page into ../static: index.html, and assets whose names contain a hash of their content.
//
// `npm ci --ignore-scripts` and `npm run build` give the same bytes on every machine: versions are locked, and the output contains
// no times and no local paths. SHA256SUMS lists the files, so that a change is detected without npm.

import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { basename, dirname, join, relative } from "node:path";
import { build } from "esbuild";
import { filter, presimplify, quantile, simplify } from "topojson-simplify";
import { quantize } from "topojson-client";

const STATE = "48"; // the state whose counties are drawn: Texas, as in ls4_assets/domain/regions/shards.toml
const COUNTY_LINES = 0.1; // share of the points that is kept: a county is at most a few hundred pixels wide
const DISTANT_STATES = new Set(["02", "15", "60", "66", "69", "72", "78"]); // states and territories outside the map

const root = import.meta.dirname;
const out = process.argv[2] ?? join(root, "..", "static");
const assets = join(out, "assets");
const require = createRequire(import.meta.url);

rmSync(out, { recursive: true, force: true });
mkdirSync(assets, { recursive: true });

/** Write an asset; its file name contains the first digits of its hash. */
function asset(name, content) {
  const hash = createHash("sha256").update(content).digest("hex").slice(0, 12);
  const file = name.replace(/(\.\w+)$/, `-${hash}$1`);
  writeFileSync(join(assets, file), content);
  return { address: `/assets/${file}`, integrity: `sha384-${createHash("sha384").update(content).digest("base64")}` };
}

/** States and the counties of one of them, as a small TopoJSON. The lines are from the U.S. Census Bureau, through us-atlas. */
function baseMap() {
  const atlas = JSON.parse(readFileSync(require.resolve("us-atlas/counties-10m.json")));
  const { states, counties } = atlas.objects;
  states.geometries = states.geometries.filter((state) => !DISTANT_STATES.has(state.id));
  counties.geometries = counties.geometries.filter((county) => county.id.startsWith(STATE));
  delete atlas.objects.nation;
  const plain = filter({ ...atlas, bbox: undefined, transform: undefined, arcs: decodeArcs(atlas) });
  const weighed = presimplify(plain);
  const small = simplify(weighed, quantile(weighed, 1 - COUNTY_LINES));
  return JSON.stringify(quantize(small, 1e5));
}

/** The arcs as longitude and latitude: TopoJSON stores them as differences of integers. */
function decodeArcs({ arcs, transform: { scale, translate } }) {
  return arcs.map((arc) => {
    let [x, y] = [0, 0];
    return arc.map(([dx, dy]) => [(x += dx) * scale[0] + translate[0], (y += dy) * scale[1] + translate[1]]);
  });
}

/** The licenses of all packages in the bundle. */
function licenses(inputs) {
  const packages = new Set(["us-atlas", "@fontsource-variable/source-sans-3"].map((name) => join("node_modules", name)));
  for (const input of inputs) {
    const match = /^node_modules\/(?:@[^/]+\/)?[^/]+/.exec(input);
    if (match) packages.add(match[0]);
  }
  const texts = [...packages].sort().map((packagePath) => {
    const folder = join(root, packagePath);
    const { name, version, license } = JSON.parse(readFileSync(join(folder, "package.json")));
    const file = readdirSync(folder).find((entry) => /^licen[cs]e/i.test(entry));
    const text = file ? readFileSync(join(folder, file), "utf8").trim() : `License: ${license}`;
    return `${name} ${version} (${license})\n\n${text}\n`;
  });
  return `The map page includes the following works.\n\n${texts.join(`\n${"-".repeat(78)}\n\n`)}`;
}

const font = asset(
  "source-sans-3.woff2",
  readFileSync(require.resolve("@fontsource-variable/source-sans-3/files/source-sans-3-latin-wght-normal.woff2")),
);
const map = asset("base.json", baseMap());
const common = { absWorkingDir: root, bundle: true, minify: true, write: false, legalComments: "none", target: "es2022" };
const style = await build({ ...common, entryPoints: ["src/style.css"], external: ["/assets/*"] });
const css = asset("viewer.css", style.outputFiles[0].text.replace("/assets/source-sans-3.woff2", font.address));
const code = await build({
  ...common,
  entryPoints: ["src/main.js"],
  format: "esm",
  metafile: true,
  define: { BASE_ADDRESS: JSON.stringify(map.address) },
});
const script = asset("viewer.js", code.outputFiles[0].text);
const license = asset("licenses.txt", licenses(Object.keys(code.metafile.inputs)));

const page = readFileSync(join(root, "src", "index.html"), "utf8")
  .replace("%css%", `href="${css.address}" integrity="${css.integrity}"`)
  .replace("%js%", `src="${script.address}" integrity="${script.integrity}"`)
  .replace("%font%", `href="${font.address}"`)
  .replace("%licenses%", license.address);
writeFileSync(join(out, "index.html"), page);

const files = [join(out, "index.html"), ...readdirSync(assets).map((file) => join(assets, file))].sort();
const sums = files.map((file) => `${createHash("sha256").update(readFileSync(file)).digest("hex")}  ${relative(out, file)}\n`);
writeFileSync(join(out, "SHA256SUMS"), sums.join(""));
for (const file of files) console.log(`${basename(dirname(file))}/${basename(file)} ${readFileSync(file).length}`);
