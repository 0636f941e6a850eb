/*
 * /photographs?point=longitude,latitude: every photograph of the archive whose footprint covers a point, as GeoJSON. MapServer
 * has the rows from the database (templates/photographs.map.j2); this module checks the parameters and writes the addresses.
 */

const MAX_LATITUDE = 85;  // of web maps
// About a meter: two requests for the same place are one in the cache.
const DIGITS = 5;
const MAX_LIMIT = 100;
const MAX_OFFSET = 10000;
const NUMBER = /^[+-]?[0-9]{1,3}(?:[.][0-9]{0,20})?$/;
const ZOOM_0_RESOLUTION = 156543.03392804097;  // meters per pixel in EPSG:3857
// As in tiles.py: frames that are finer than a zoom level by at most this many levels still count as that level.
const ZOOM_TOLERANCE = 0.2;
const TEXTS = ['name', 'date', 'collection', 'title', 'shard', 'agency', 'type', 'film_type', 'roll', 'frame_num', 'thumbnail',
    'dl_georef', 'dl_orig'];

/* Writes the response of /photographs. */
async function list(r) {
    let query;
    try {
        query = parse(r.args);
    } catch (e) {
        r.return(400, `${e.message}\n`);
        return;
    }
    const reply = await r.subrequest('/mapserv/photographs', { args: mapserverQuery(query) });
    // MapServer reports errors with status 200.
    if (reply.status !== 200 || !(reply.headersOut['Content-Type'] || '').startsWith('application/json')) {
        r.return(503, 'The map server is not responding: try again in a few seconds.\n');
        return;
    }
    r.headersOut['Content-Type'] = 'application/geo+json';
    r.return(200, JSON.stringify(collection(query, JSON.parse(reply.responseText).features, r.variables.origin)));
}

/* The parameters of the request. Throws an Error whose message says what to change. */
function parse(args) {
    const parts = String(args.point || '').split(',');
    const longitude = Number(parts[0]), latitude = Number(parts[1]);
    if (parts.length !== 2 || !parts.every(part => NUMBER.test(part.trim()))) {
        throw new Error('The point is missing or is not two numbers: write point=longitude,latitude in degrees, such as point=-97.74,30.27.');
    }
    if (Math.abs(longitude) > 180 || Math.abs(latitude) > MAX_LATITUDE) {
        throw new Error(`The point is outside the map: longitude is from -180 to 180 and latitude from -${MAX_LATITUDE} to ${MAX_LATITUDE}, in this order.`);
    }
    const order = args.order || 'newest';
    if (order !== 'newest' && order !== 'oldest') {
        throw new Error('The order is unknown: write order=newest or order=oldest.');
    }
    return { point: [rounded(longitude), rounded(latitude)], order,
        limit: integer(args, 'limit', 1, MAX_LIMIT, MAX_LIMIT), offset: integer(args, 'offset', 0, MAX_OFFSET, 0) };
}

function integer(args, name, least, most, missing) {
    const text = args[name];
    if (text === undefined) {
        return missing;
    }
    if (!/^[0-9]{1,5}$/.test(text) || Number(text) < least || Number(text) > most) {
        throw new Error(`The ${name} is not allowed: write a whole number from ${least} to ${most}.`);
    }
    return Number(text);
}

/* Never -0, which would be another point to the cache. */
function rounded(degrees) {
    return Number(degrees.toFixed(DIGITS)) + 0;
}

/* GetFeatureInfo in the middle of a map of three pixels, at which all rows are. */
function mapserverQuery(query) {
    const x = query.point[0], y = query.point[1];
    return 'map=catalog&SERVICE=WMS&VERSION=1.1.1&REQUEST=GetFeatureInfo&SRS=EPSG:4326&STYLES=&FORMAT=image/png'
        + '&LAYERS=photographs&QUERY_LAYERS=photographs&INFO_FORMAT=application/json&WIDTH=3&HEIGHT=3&X=1&Y=1'
        + `&BBOX=${x - 0.001},${y - 0.001},${x + 0.001},${y + 0.001}&FEATURE_COUNT=${query.limit}`
        + `&longitude=${x.toFixed(DIGITS)}&latitude=${y.toFixed(DIGITS)}&order=${query.order}&count=${query.limit}&offset=${query.offset}`;
}

/* A GeoJSON FeatureCollection with the members of OGC API Features. */
function collection(query, rows, origin) {
    const matched = rows.length ? Number(rows[0].properties.matched) : 0;
    const address = offset => `${origin}/photographs?point=${query.point}&order=${query.order}&limit=${query.limit}&offset=${offset}`;
    const links = [{ rel: 'self', type: 'application/geo+json', href: address(query.offset) }];
    const end = query.offset + rows.length;
    if (end < matched) {
        links.push({ rel: 'next', type: 'application/geo+json', href: address(end) });
    }
    return { type: 'FeatureCollection', point: query.point, order: query.order, numberMatched: matched,
        numberReturned: rows.length, links, features: rows.map(row => feature(row.properties, origin)) };
}

/* One photograph. `row` is its row in the database; an empty string is a null. */
function feature(row, origin) {
    const footprint = typeof row.footprint === 'string' ? JSON.parse(row.footprint) : row.footprint;
    const frame = `${row.film_type}/${row.stem}`;
    const properties = { year: row.year === '' ? null : Number(row.year) };
    row.name = row.stem;
    row.date = row.acquired;
    TEXTS.forEach(name => {
        properties[name] = row[name] || null;
    });
    properties.page = `${origin}/#${row.table_name}?frame=${frame}`;
    properties.map = `${origin}/wms/${row.table_name}`;
    properties.features = `${origin}/ogcapi/${row.table_name}`;
    properties.tiles = `${origin}/tiles/${row.table_name}/{z}/{x}/{y}.png?frame=${frame}&v=${row.version}`;
    properties.maxzoom = row.pixel_size ? maxzoom(Number(row.pixel_size)) : null;
    return { type: 'Feature', id: row.id, bbox: footprint.bbox,
        geometry: { type: footprint.type, coordinates: footprint.coordinates }, properties };
}

/* The zoom level that shows every pixel of the photograph. */
function maxzoom(pixelSize) {
    return Math.max(0, Math.ceil(Math.log2(ZOOM_0_RESOLUTION / pixelSize) - ZOOM_TOLERANCE));
}

export default { list };
