// Builds the page into ../static: index.html, and assets whose names hold a hash of their content.
//
// `npm ci --ignore-scripts` and `npm run build` give the same bytes on every machine: versions are locked, and nothing of the
// clock or of paths goes in. SHA256SUMS lists what was written, so that a changed file is seen without npm.

import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { basename, dirname, join, relative } from "node:path";
import { build } from "esbuild";
import { filter, presimplify, quantile, simplify } from "topojson-simplify";
import { quantize } from "topojson-client";

const STATE = "48"; // whose counties are drawn: Texas, as in ls4_assets/domain/regions/shards.toml
const COUNTY_LINES = 0.1; // share of the lines' points that is kept: a county is a few hundred pixels wide at most
const FARAWAY = new Set(["02", "15", "60", "66", "69", "72", "78"]); // states and territories that no map here reaches

const here = import.meta.dirname;
const out = process.argv[2] ?? join(here, "..", "static");
const assets = join(out, "assets");
const require = createRequire(import.meta.url);

rmSync(out, { recursive: true, force: true });
mkdirSync(assets, { recursive: true });

/** Writes an asset; its file name holds the first letters of its hash. */
function asset(name, content) {
  const hash = createHash("sha256").update(content).digest("hex").slice(0, 12);
  const file = name.replace(/(\.\w+)$/, `-${hash}$1`);
  writeFileSync(join(assets, file), content);
  return { address: `/assets/${file}`, integrity: `sha384-${createHash("sha384").update(content).digest("base64")}` };
}

/** States, and the counties of one of them, as a small TopoJSON. Lines of the U.S. Census Bureau, by way of us-atlas. */
function base() {
  const atlas = JSON.parse(readFileSync(require.resolve("us-atlas/counties-10m.json")));
  const { states, counties } = atlas.objects;
  states.geometries = states.geometries.filter((state) => !FARAWAY.has(state.id));
  counties.geometries = counties.geometries.filter((county) => county.id.startsWith(STATE));
  delete atlas.objects.nation;
  const plain = filter({ ...atlas, bbox: undefined, transform: undefined, arcs: decoded(atlas) });
  const weighed = presimplify(plain);
  const small = simplify(weighed, quantile(weighed, 1 - COUNTY_LINES));
  return JSON.stringify(quantize(small, 1e5));
}

/** The arcs as longitude and latitude: they are stored as differences of integers. */
function decoded({ arcs, transform: { scale, translate } }) {
  return arcs.map((arc) => {
    let [x, y] = [0, 0];
    return arc.map(([dx, dy]) => [(x += dx) * scale[0] + translate[0], (y += dy) * scale[1] + translate[1]]);
  });
}

/** The licence of every package that went into the bundle. */
function licences(inputs) {
  const roots = new Set(["us-atlas", "@fontsource-variable/source-sans-3"].map((name) => join("node_modules", name)));
  for (const input of inputs) {
    const found = /^node_modules\/(?:@[^/]+\/)?[^/]+/.exec(input);
    if (found) roots.add(found[0]);
  }
  const texts = [...roots].sort().map((root) => {
    const folder = join(here, root);
    const { name, version, license } = JSON.parse(readFileSync(join(folder, "package.json")));
    const file = readdirSync(folder).find((entry) => /^licen[cs]e/i.test(entry));
    const text = file ? readFileSync(join(folder, file), "utf8").trim() : `License: ${license}`;
    return `${name} ${version} (${license})\n\n${text}\n`;
  });
  return `The map page is made with the following works.\n\n${texts.join(`\n${"-".repeat(78)}\n\n`)}`;
}

const font = asset(
  "source-sans-3.woff2",
  readFileSync(require.resolve("@fontsource-variable/source-sans-3/files/source-sans-3-latin-wght-normal.woff2")),
);
const map = asset("base.json", base());
const common = { absWorkingDir: here, bundle: true, minify: true, write: false, legalComments: "none", target: "es2022" };
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
const licence = asset("licences.txt", licences(Object.keys(code.metafile.inputs)));

const page = readFileSync(join(here, "src", "index.html"), "utf8")
  .replace("%css%", `href="${css.address}" integrity="${css.integrity}"`)
  .replace("%js%", `src="${script.address}" integrity="${script.integrity}"`)
  .replace("%font%", `href="${font.address}"`)
  .replace("%licences%", licence.address);
writeFileSync(join(out, "index.html"), page);

const files = [join(out, "index.html"), ...readdirSync(assets).map((file) => join(assets, file))].sort();
const sums = files.map((file) => `${createHash("sha256").update(readFileSync(file)).digest("hex")}  ${relative(out, file)}\n`);
writeFileSync(join(out, "SHA256SUMS"), sums.join(""));
for (const file of files) console.log(`${basename(dirname(file))}/${basename(file)} ${readFileSync(file).length}`);
