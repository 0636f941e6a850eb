// Builds the page into ../static: index.html, and assets whose names contain a hash of their content.
//
// `npm ci --ignore-scripts` and `npm run build` give the same bytes on every machine: versions are locked, and the output contains
// no times and no local paths. The base map is a file of the archive (base_map.mjs). SHA256SUMS lists the files, so that a change is detected without npm.

import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { basename, dirname, join, relative } from "node:path";
import { build } from "esbuild";

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
const common = { absWorkingDir: root, bundle: true, minify: true, write: false, legalComments: "none", target: "es2022" };
const style = await build({ ...common, entryPoints: ["src/style.css"], external: ["/assets/*"] });
const css = asset("viewer.css", style.outputFiles[0].text.replace("/assets/source-sans-3.woff2", font.address));
const code = await build({
  ...common,
  entryPoints: ["src/main.js"],
  format: "esm",
  metafile: true,
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
