/*
 * Documents of all collections, from the list of collections: the OGC API of the archive, and TileJSON, WMTS and WMS extent of the
 * statewide map. A collection's own documents are written by the pipeline (mapserver/tiles.py). njs has no memory between requests,
 * so what most of them need is at the beginning of the list, before the collections.
 */
import fs from 'fs';

const HALF_WORLD_METERS = 20037508.342789244;  // half the width of the world in EPSG:3857
const BEGINNING_BYTES = 1024;
const MAX_ZOOM = 20;
const CONFORMANCE = [
    'http://www.opengis.net/spec/ogcapi-common-1/1.0/conf/core',
    'http://www.opengis.net/spec/ogcapi-common-2/1.0/conf/collections',
    'http://www.opengis.net/spec/ogcapi-features-1/1.0/conf/core',
    'http://www.opengis.net/spec/ogcapi-features-1/1.0/conf/geojson',
];

/* Extent in EPSG:3857 meters and first and last year of all collections; empty while there are none. */
function readSummary(r) {
    try {
        // Without decoding the rest, which may have megabytes.
        const beginning = fs.readFileSync(r.variables.collections_path).slice(0, BEGINNING_BYTES).toString();
        const found = /^\{\s*"archive": (\{[^{}]*\})/.exec(beginning);
        return found ? JSON.parse(found[1]) : {};
    } catch (e) {
        return {};
    }
}

/* The parameters that the statewide mapfile replaces in its capabilities. */
function capabilitiesParameters(r) {
    const summary = readSummary(r);
    const extent = summary.extent ? `&archive_extent=${summary.extent.join('+')}&map.extent=${summary.extent.join('+')}` : '';
    return extent + (summary.years ? `&archive_years=${summary.years[0]}/${summary.years[1]}/P1Y` : '');
}

/* The TileJSON of the statewide map with the bounds of all collections. */
function tilejson(r) {
    const document = JSON.parse(fs.readFileSync(`${r.variables.base_path}.tilejson`));
    const extent = readSummary(r).extent;
    if (extent) {
        const bounds = degrees(extent);
        document.bounds = bounds;
        document.center = [round((bounds[0] + bounds[2]) / 2), round((bounds[1] + bounds[3]) / 2), overviewZoom(extent)];
    }
    send(r, document);
}

/* The WMTS capabilities of the statewide map with the bounds of all collections. */
function wmts(r) {
    let text = fs.readFileSync(`${r.variables.base_path}.wmts`).toString();
    const extent = readSummary(r).extent;
    if (extent) {
        const bounds = degrees(extent);
        text = text.replace(/(<ows:LowerCorner>).*?(?=<)/, `$1${bounds[0]} ${bounds[1]}`)
            .replace(/(<ows:UpperCorner>).*?(?=<)/, `$1${bounds[2]} ${bounds[3]}`)
            .replace(/<TileMatrixLimits>[\s\S]*?<\/TileMatrixLimits>/g, limits => withLimits(limits, extent));
    }
    r.headersOut['Content-Type'] = 'text/xml';
    r.return(200, text);
}

/* The limits of one zoom level with the tiles that meet the extent. */
function withLimits(limits, extent) {
    const count = 1 << Number(/<TileMatrix>([0-9]+)</.exec(limits)[1]);
    const tile = meters => Math.min(count - 1, Math.max(0, Math.floor(meters / (2 * HALF_WORLD_METERS) * count)));
    const values = {
        MinTileRow: tile(HALF_WORLD_METERS - extent[3]),
        MaxTileRow: tile(HALF_WORLD_METERS - extent[1]),
        MinTileCol: tile(extent[0] + HALF_WORLD_METERS),
        MaxTileCol: tile(extent[2] + HALF_WORLD_METERS),
    };
    return Object.keys(values).reduce((text, name) => text.replace(new RegExp(`(<${name}>)[0-9]+`), `$1${values[name]}`), limits);
}

/* OGC API: the landing page of the archive. */
function landing(r) {
    const root = `${r.variables.origin}/ogcapi`;
    send(r, {
        title: 'Footprints of all collections',
        description: 'The footprints of scanned and georeferenced aerial photographs, one collection for each map.',
        links: [
            link('self', `${root}/`, 'application/json', 'This document'),
            link('data', `${root}/collections`, 'application/json', 'The collections'),
            link('conformance', `${root}/conformance`, 'application/json', 'Conformance classes'),
            link('service-doc', `${r.variables.origin}/`, 'text/html', 'The map page'),
        ],
    });
}

function conformance(r) {
    send(r, { conformsTo: CONFORMANCE });
}

/* OGC API: all collections, each with the links of its own service. */
function collections(r) {
    let listed = [];
    try {
        listed = JSON.parse(fs.readFileSync(r.variables.collections_path)).collections;
    } catch (e) {
        listed = [];
    }
    const root = `${r.variables.origin}/ogcapi`;
    send(r, {
        links: [link('self', `${root}/collections`, 'application/json', 'This document')],
        collections: listed.map(entry => describe(entry, root)),
    });
}

function describe(entry, root) {
    const id = `${entry.name}_index`;
    const own = `${root}/${entry.table}/collections/${id}`;
    return {
        id: id,
        title: entry.title,
        itemType: 'feature',
        extent: {
            spatial: { bbox: [degrees(entry.extent)], crs: 'http://www.opengis.net/def/crs/OGC/1.3/CRS84' },
            temporal: { interval: [entry.year ? [`${entry.year}-01-01T00:00:00Z`, `${entry.year}-12-31T23:59:59Z`] : [null, null]] },
        },
        crs: ['http://www.opengis.net/def/crs/OGC/1.3/CRS84'],
        links: [
            link('self', own, 'application/json', entry.title),
            link('items', `${own}/items`, 'application/geo+json', `Footprints of ${entry.title}`),
        ],
    };
}

function link(rel, href, type, title) {
    return { rel: rel, href: href, type: type, title: title };
}

function send(r, document) {
    r.headersOut['Content-Type'] = 'application/json';
    r.return(200, `${JSON.stringify(document, null, 1)}\n`);
}

/* West, south, east, north in degrees, of an extent in EPSG:3857 meters. */
function degrees(extent) {
    const longitude = x => round(x / HALF_WORLD_METERS * 180);
    const latitude = y => round(Math.atan(Math.sinh(y / HALF_WORLD_METERS * Math.PI)) / Math.PI * 180);
    return [longitude(extent[0]), latitude(extent[1]), longitude(extent[2]), latitude(extent[3])];
}

/* The zoom level at which the extent fills about four tiles, as `_overview_zoom` of mapserver/tiles.py. */
function overviewZoom(extent) {
    const side = Math.max(extent[2] - extent[0], extent[3] - extent[1]);
    return Math.min(MAX_ZOOM, Math.max(0, Math.floor(Math.log2(4 * HALF_WORLD_METERS / side))));
}

function round(value) {
    return Math.round(value * 1e6) / 1e6;
}

export default { capabilitiesParameters, collections, conformance, landing, tilejson, wmts };
