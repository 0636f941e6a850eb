/*
 * What nginx computes for tile requests: the bounding box of a tile, whether MapServer has to draw it, and the collection's current
 * version. The input is the TileJSON beside the collection's mapfile. A collection without a TileJSON is drawn, but its tiles are
 * not cached. Locations and headers are in templates/nginx.conf.j2.
 */
import fs from 'fs';

const HALF_WORLD_METERS = 20037508.342789244;  // half the width of the world in EPSG:3857
const MAX_ZOOM = 24;
const METRICS_MAX_AGE_MS = 120000;

// Responses without a request to MapServer. nginx.conf compares with these words.
const NOT_FOUND = 'not_found';
const NOT_MODIFIED = 'not_modified';
const BLANK = 'blank';

// One photograph: its film type and its file name without suffix. It may be escaped.
const FRAME = /^[a-z]{2,8}(?:\/|%2[Ff])[A-Za-z0-9_-]{1,80}$/;

// Why a request is rejected. The text of the response is in variables.conf.
const PARAMETER = 'parameter';
const BRACKET = 'bracket';
const FORMAT = 'format';
const SIZE = 'size';

// map.layer[x].data=..., map_config=... and the like. Of these, published maps use map.imagetype, and QGIS sends map_resolution.
const FORBIDDEN = /^(?:map[._].*|context|queryfile|savequery|template|shapepath|symbolset|fontset)$/;
const ALLOWED = /^map(?:[._]imagetype|_resolution)$/;
// In a filter or an identifier, a bracket makes MapServer access invalid memory. XML can also write it as a character reference,
// in CDATA, or as an entity of a document type.
const BRACKETS = /[\[\]]|&#|<!/;
// MapServer decodes these escapes too, to any character.
const INVALID_ESCAPE = /%(?![0-9A-Fa-f]{2})/;

/* The query string that makes MapServer draw the tile z/x/y, of the map or of one photograph, or one of the words above. */
function tileRequest(r) {
    const v = r.variables;
    const z = Number(v.z), x = Number(v.x), y = Number(v.y);
    if (z > MAX_ZOOM || x >= 1 << z || y >= 1 << z) {
        return NOT_FOUND;
    }
    // As nginx reads it for the map and the key of the cache: the first one, in any case.
    const frame = v.arg_frame;
    if (frame && (v.collection === 'catalog' || !FRAME.test(frame))) {
        return NOT_FOUND;
    }
    const tilejson = readTilejson(r);
    const etags = r.headersIn['If-None-Match'];
    if (etags && tilejson.version && etags.indexOf(`"${versionNumber(tilejson)}"`) >= 0) {
        return NOT_MODIFIED;
    }
    if (tilejson.bounds && !intersects(tilejson.bounds, z, x, y)) {
        return BLANK;
    }
    const side = 2 * HALF_WORLD_METERS / (1 << z);
    const left = x * side - HALF_WORLD_METERS, top = HALF_WORLD_METERS - y * side;
    const size = v.scale ? 512 : 256;
    // MapServer draws this up to four times faster than the same tile in its tile mode.
    return 'SERVICE=WMS&VERSION=1.1.1&REQUEST=GetMap&STYLES=&SRS=EPSG:3857&TRANSPARENT=TRUE'
        + `&FORMAT=image/${v.extension}&LAYERS=${frame ? 'photograph' : v.tile_layers}&WIDTH=${size}&HEIGHT=${size}`
        + `&BBOX=${left},${top - side},${left + side},${top}`
        + (frame ? `&collection=${v.collection}&frame=${frame}` : v.collection === 'catalog' ? selection(r.args) : '');
}

/* The parameters `year` and `collection` of the statewide map, if they are valid. */
function selection(args) {
    const year = args.year || '', collection = args.collection || '';
    return (/^[0-9]{4}$/.test(year) ? `&year=${year}` : '')
        + (/^[A-Za-z0-9_]{1,63}$/.test(collection) ? `&collection=${collection}` : '');
}

/* The current version of the collection; empty when it has none. */
function tileVersion(r) {
    return versionNumber(readTilejson(r));
}

/*
 * Why MapServer must not get this request: a parameter would make it change its map, or read or write a file; or the request would
 * crash it (MapServer 8.0 to 8.4). Empty for all others.
 */
function rejection(r) {
    const query = r.variables.args || '';
    if (INVALID_ESCAPE.test(query)) {
        return PARAMETER;
    }
    const parameters = query.split('&').map(parseParameter);
    if (parameters.some(p => FORBIDDEN.test(p.name) && !ALLOWED.test(p.name))) {
        return PARAMETER;
    }
    if (parameters.some(p => BRACKETS.test(p.name) || BRACKETS.test(p.value))) {
        return BRACKET;
    }
    // Its scale would be infinite. Mapfiles of ls4 0.1.0 have no limit of their own.
    if (parameters.some(p => p.name === 'width' && parseFloat(p.value) < 2)) {
        return SIZE;
    }
    // MapServer can count features only in GML.
    const isCount = parameters.some(p => p.name === 'resulttype' && /hits/i.test(p.value));
    return isCount && parameters.some(p => p.name === 'outputformat' && !/^$|gml/i.test(p.value)) ? FORMAT : '';
}

/* Name and value as MapServer reads them: it decodes bytes, then splits at the first `=`, and a string ends at a zero byte. */
function parseParameter(pair) {
    const bytes = pair.replace(/[+]/g, ' ').replace(/%([0-9A-Fa-f]{2})/g, (_, code) => String.fromCharCode(parseInt(code, 16)));
    const text = bytes.split('\0', 1)[0];
    const end = text.indexOf('=');
    const name = end < 0 ? text : text.slice(0, end);
    return { name: name.trim().toLowerCase(), value: end < 0 ? '' : text.slice(end + 1) };
}

function readTilejson(r) {
    try {
        return JSON.parse(fs.readFileSync(`${r.variables.base_path}.tilejson`));
    } catch (e) {
        return {};
    }
}

function versionNumber(tilejson) {
    return tilejson.version ? tilejson.version.split('.')[1] : '';
}

/* Whether the tile intersects the bounds: west, south, east, north in degrees. */
function intersects(bounds, z, x, y) {
    const across = 1 << z;
    const column = longitude => (longitude + 180) / 360 * across;
    const row = latitude => (1 - Math.asinh(Math.tan(latitude * Math.PI / 180)) / Math.PI) / 2 * across;
    return column(bounds[0]) < x + 1 && column(bounds[2]) > x && row(bounds[3]) < y + 1 && row(bounds[1]) > y;
}

/*
 * The metrics of the platform, from the file of the monitor, and of map requests, from the dispatcher. When the monitor has
 * stopped, the response is an error: Prometheus then sees that this target is down, instead of values that never change.
 */
async function metrics(r) {
    const requests = await r.subrequest('/mapserv/metrics');
    let platform = '';
    if (r.variables.metrics_file) {
        try {
            const file = r.variables.metrics_file;
            if (Date.now() - fs.statSync(file).mtimeMs < METRICS_MAX_AGE_MS) {
                platform = fs.readFileSync(file).toString();
            }
        } catch (e) {
            platform = '';
        }
        if (!platform) {
            r.return(503, 'The monitor has stopped: restart the Dagster UI, which it is part of.\n');
            return;
        }
    }
    r.headersOut['Content-Type'] = 'text/plain; version=0.0.4; charset=utf-8';
    r.return(200, platform + (requests.status === 200 ? requests.responseText : ''));
}

export default { metrics, parseParameter, rejection, tileRequest, tileVersion };
