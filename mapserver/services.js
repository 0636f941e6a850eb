/*
 * What nginx adds to the services of MapServer: parameters that clients leave out or that MapServer does not support, exceptions,
 * and WMTS with key-value parameters. Tiles and rejected requests are in front_end.js, documents of all collections in
 * all_collections.js, locations and headers in templates/nginx.conf.j2.
 */
import statewide from 'all_collections.js';
import web from 'front_end.js';

const CATALOG = 'catalog';
// MapServer rejects the last two.
const SERVICE = /^(?:wms|wfs|wcs|sos)$/i;
// Operations that only WMS has: 1.1.1 does not require SERVICE for them.
const WMS_OPERATION = /^(?:getmap|getfeatureinfo|getlegendgraphic|describelayer|getstyles)$/i;
const NEEDS_STYLES = /^(?:getmap|getfeatureinfo)$/i;
// An instant or an interval of ISO 8601, of which only the years count: 1958, 1958-02-08T00:00:00Z, 1950/1960, 1950/1960/P1Y.
const INSTANT = '([0-9]{4})(?:-[0-9]{2}(?:-[0-9]{2}(?:T[0-9:.]{2,15}Z?)?)?)?';
const TIME = new RegExp(`^${INSTANT}(?:/${INSTANT}(?:/P1Y)?)?$`);

const TILE_MATRIX_SET = 'GoogleMapsCompatible';
// What a tile's address ends in, by format.
const TILE_SUFFIXES = { 'image/png': 'png' };
const NUMBER = /^[0-9]{1,8}$/;

/* The parameters for MapServer: those of the request, a queried imagery layer replaced by one that answers, and missing ones. */
function mapParameters(r) {
    const given = parameters(r);
    const operation = given.request || '';
    let query = r.variables.args || '';
    if (!('service' in given) && WMS_OPERATION.test(operation)) {
        query += '&SERVICE=WMS';
    }
    if (!('styles' in given) && NEEDS_STYLES.test(operation)) {
        query += '&STYLES=';
    }
    // MapServer would draw black where a transparent JPEG has no pixels.
    if (/^image\/jpe?g/i.test(given.format || '') && /^true$/i.test(given.transparent || '')) {
        query = `${without(query, 'transparent')}&TRANSPARENT=FALSE`;
    }
    if (/^getfeatureinfo$/i.test(operation) && given.query_layers) {
        query = queryFrames(query, given, r.variables.collection);
    }
    return r.variables.collection === CATALOG ? query + statewideParameters(r, given) : query;
}

/* The query with the imagery layer replaced by the layer of its frames, the topmost first: MapServer would answer with pixel values. */
function queryFrames(query, given, collection) {
    const isImagery = name => name.toLowerCase() === (collection === CATALOG ? 'imagery' : collection);
    const names = given.query_layers.split(',');
    if (!names.some(isImagery)) {
        return query;
    }
    const replaced = names.map(name => isImagery(name) ? `${name}_${collection === CATALOG ? 'frames' : 'index'}` : name);
    const distinct = replaced.filter((name, position) => replaced.indexOf(name) === position).map(encodeURIComponent).join(',');
    // For a single feature MapServer takes the last one that it finds.
    const order = Number(given.feature_count) > 1 ? 'DESC' : 'ASC';
    return `${without(query, 'query_layers')}&QUERY_LAYERS=${distinct}&stack=${order}`;
}

/* The query without a parameter. */
function without(query, name) {
    return query.split('&').filter(pair => web.parseParameter(pair).name !== name).join('&');
}

/* What the statewide map takes from the list of collections for its capabilities, and the years of the dimension TIME. */
function statewideParameters(r, given) {
    const years = TIME.exec(given.time || '');
    const selected = years && !given.year ? `&year=${years[1]}${years[2] ? '-' + years[2] : ''}` : '';
    return selected + (/^getcapabilities$/i.test(given.request || '') ? statewide.capabilitiesParameters(r) : '');
}

/* Why MapServer would answer with a page instead of an exception, or with a wrong year: code, locator and text of the exception, separated by bars. Empty for all others. */
function exception(r) {
    const given = parameters(r);
    if (given.request && !given.service && !WMS_OPERATION.test(given.request) && !given.wmtver && !given.mode) {
        return 'MissingParameterValue|service|The parameter SERVICE is missing: add SERVICE=WMS or SERVICE=WFS.';
    }
    if (given.service && !SERVICE.test(given.service) && !given.mode) {
        return 'InvalidParameterValue|service|SERVICE must be WMS or WFS: correct it. WMTS and OGC API have addresses of their own.';
    }
    if (r.variables.collection === CATALOG && given.time && !TIME.test(given.time)) {
        return 'InvalidDimensionValue|time|TIME is not a year or an interval of years: write it like TIME=1958 or TIME=1950/1960.';
    }
    return '';
}

/* The exception as XML: that of WMS 1.3.0. */
function exceptionReport(r) {
    const parts = exception(r).split('|');
    sendXml(r, '<ServiceExceptionReport version="1.3.0" xmlns="http://www.opengis.net/ogc">\n'
        + `<ServiceException code="${parts[0]}" locator="${parts[1]}">${parts[2]}</ServiceException>\n</ServiceExceptionReport>\n`);
}

/* WMTS with key-value parameters: `capabilities`, the address of the tile, or an exception as in `exception`. */
function wmts(r) {
    const given = parameters(r);
    const operation = (given.request || '').toLowerCase();
    if ((given.service || '').toLowerCase() !== 'wmts') {
        return 'MissingParameterValue|service|The parameter SERVICE is missing or not WMTS: add SERVICE=WMTS.';
    }
    if (operation === 'getcapabilities') {
        return 'capabilities';
    }
    if (operation !== 'gettile') {
        const code = operation ? 'OperationNotSupported' : 'MissingParameterValue';
        return `${code}|request|REQUEST must be GetCapabilities or GetTile: correct it.`;
    }
    const place = ['tilematrix', 'tilecol', 'tilerow'];
    const missing = ['layer', 'tilematrixset'].concat(place, 'format').find(name => !given[name]);
    if (missing) {
        return `MissingParameterValue|${missing}|The parameter ${missing.toUpperCase()} is missing: add it as in the capabilities.`;
    }
    const accepted = {
        layer: given.layer.toLowerCase() === r.variables.collection,
        tilematrixset: given.tilematrixset === TILE_MATRIX_SET,
        format: TILE_SUFFIXES.hasOwnProperty(given.format),
        style: !given.style || given.style === 'default',
    };
    const wrong = Object.keys(accepted).find(name => !accepted[name]) || place.find(name => !NUMBER.test(given[name]));
    if (wrong) {
        return `InvalidParameterValue|${wrong}|The parameter ${wrong.toUpperCase()} has a value that is not in the capabilities: correct it.`;
    }
    return `/tiles/${r.variables.collection}/${place.map(name => Number(given[name])).join('/')}.${TILE_SUFFIXES[given.format]}`;
}

/* The exception of WMTS as XML: that of OWS 1.1. */
function wmtsExceptionReport(r) {
    const parts = wmts(r).split('|');
    sendXml(r, '<ExceptionReport version="1.1.0" xmlns="http://www.opengis.net/ows/1.1">\n'
        + `<Exception exceptionCode="${parts[0]}" locator="${parts[1]}"><ExceptionText>${parts[2]}</ExceptionText></Exception>\n`
        + '</ExceptionReport>\n');
}

function sendXml(r, body) {
    r.headersOut['Content-Type'] = 'text/xml; charset=utf-8';
    r.return(400, `<?xml version="1.0" encoding="UTF-8"?>\n${body}`);
}

/* The collection of a footprint layer's name, for the OGC API of the archive. */
function listedCollection(r) {
    return r.variables.id.toLowerCase();
}

/* The parameters of the request by name in lower case. */
function parameters(r) {
    const given = {};
    (r.variables.args || '').split('&').map(web.parseParameter).forEach(each => {
        given[each.name] = each.value;
    });
    return given;
}

export default { exception, exceptionReport, listedCollection, mapParameters, wmts, wmtsExceptionReport };
