/*
 * What nginx computes itself: where a tile lies on the map, whether anything has to be drawn for it, and of which version of the
 * collection it is. Everything is read from the TileJSON beside the collection's mapfile; a collection without one is drawn, but
 * no cache may keep its tiles.
 */
import fs from 'fs';

const HALF = 20037508.342789244;  // half the earth's circumference in metres of EPSG:3857
const DEEPEST = 24;

// Other answers than a request to MapServer; nginx.conf knows these words.
const ABSENT = 'absent';
const UNCHANGED = 'unchanged';
const BLANK = 'blank';

// map.layer[x].data=..., map_config=... and the like; published maps choose their picture's format so, QGIS tells its screen's
// dots per inch in each request, and no more.
const MEDDLING = /^(?:map[._].*|context|queryfile|savequery|template|shapepath|symbolset|fontset)$/;
const TAKEN = /^map(?:[._]imagetype|_resolution)$/;

/* The request to MapServer that draws the tile z/x/y, or one of the words above. */
function tile(r) {
    const v = r.variables;
    const z = Number(v.z), x = Number(v.x), y = Number(v.y);
    if (z > DEEPEST || x >= 1 << z || y >= 1 << z) {
        return ABSENT;
    }
    const published = tilejson(r);
    const kept = r.headersIn['If-None-Match'];
    if (kept && published.version && kept.indexOf(`"${number(published)}"`) >= 0) {
        return UNCHANGED;
    }
    if (published.bounds && !meets(published.bounds, z, x, y)) {
        return BLANK;
    }
    const side = 2 * HALF / (1 << z);
    const left = x * side - HALF, top = HALF - y * side;
    const size = v.scale ? 512 : 256;
    // MapServer draws this up to four times faster than the same tile in its own tile mode.
    return 'SERVICE=WMS&VERSION=1.1.1&REQUEST=GetMap&STYLES=&SRS=EPSG:3857&FORMAT=image/png&TRANSPARENT=TRUE'
        + `&LAYERS=${v.tile_layers}&WIDTH=${size}&HEIGHT=${size}&BBOX=${left},${top - side},${left + side},${top}`
        + (v.collection === 'catalog' ? choice(r.args) : '');
}

/* One year or one collection of the statewide map; anything else is left out. */
function choice(given) {
    const year = given.year || '', collection = given.collection || '';
    return (/^[0-9]{4}$/.test(year) ? `&year=${year}` : '')
        + (/^[A-Za-z0-9_]{1,63}$/.test(collection) ? `&collection=${collection}` : '');
}

/* The published version of the collection; empty when it has none. */
function version(r) {
    return number(tilejson(r));
}

/* Does the request hold a parameter by which MapServer would change its map, or read or write a file? */
function meddles(r) {
    const names = Object.keys(r.args).map(name => name.trim().toLowerCase());
    return names.some(name => MEDDLING.test(name) && !TAKEN.test(name)) ? 'yes' : '';
}

function tilejson(r) {
    try {
        return JSON.parse(fs.readFileSync(`${r.variables.files}.tilejson`));
    } catch (e) {
        return {};
    }
}

function number(published) {
    return published.version ? published.version.split('.')[1] : '';
}

/* Does the tile meet these bounds: west, south, east, north in degrees? */
function meets(bounds, z, x, y) {
    const across = 1 << z;
    const column = longitude => (longitude + 180) / 360 * across;
    const row = latitude => (1 - Math.asinh(Math.tan(latitude * Math.PI / 180)) / Math.PI) / 2 * across;
    return column(bounds[0]) < x + 1 && column(bounds[2]) > x && row(bounds[3]) < y + 1 && row(bounds[1]) > y;
}

export default { tile, version, meddles };
