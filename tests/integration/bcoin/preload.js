'use strict';

/*
 * Loaded before bcoin, or bcash (node -r preload.js .../bcoin/bin/node), for three things:
 *
 * 1. No native addon is compiled. Some of bcoin's dependencies insist on theirs although they
 *    ship the same functions in JavaScript for browsers: those are taken instead.
 * 2. Addresses on regtest look as Bitcoin Core's do, which is what wallets expect.
 * 3. Two RPC answers have the shape that Bitcoin Core gives them.
 */

process.env.NODE_BACKEND = 'js';

const fs = require('fs');
const Module = require('module');
const path = require('path');

/* Links are followed, as they are for the modules. */
const bcoin = fs.realpathSync(path.resolve(path.dirname(process.argv[1]), '..'));
const packages = path.dirname(bcoin);
const description = JSON.parse(fs.readFileSync(path.join(bcoin, 'package.json'), 'utf8'));
const withoutAddon = ['mrmr', 'bsip', 'bstring'];

/* bcash's database on disk is an addon, too; what is kept in memory needs none. */
if (description.name === 'bcash')
  withoutAddon.push('bdb');

/* Absolute path of a file -> absolute path of the file that stands in for it. */
const standIns = new Map();

function withSuffix(file) {
  return path.extname(file) === '.js' ? file : file + '.js';
}

for (const name of withoutAddon) {
  const folder = path.join(packages, name);
  const {browser} = JSON.parse(fs.readFileSync(path.join(folder, 'package.json'), 'utf8'));
  for (const key of Object.keys(browser || {}))
    standIns.set(withSuffix(path.join(folder, key)), withSuffix(path.join(folder, browser[key])));
}

const originalResolve = Module._resolveFilename;

Module._resolveFilename = function() {
  const found = originalResolve.apply(this, arguments);
  return standIns.get(found) || found;
};

const {regtest} = require(path.join(bcoin, 'lib/protocol/networks'));

Object.assign(regtest.addressPrefix, {
  pubkeyhash: 0x6f,
  scripthash: 0xc4,
  bech32: 'bcrt'
});

const {prototype} = require(path.join(bcoin, 'lib/node/rpc'));
const originalEstimate = prototype.estimateSmartFee;
const originalInfo = prototype.getNetworkInfo;

/* "feerate", and an answer rather than an error when there is nothing to estimate from. */
prototype.estimateSmartFee = async function(params, help) {
  const answer = {blocks: params[0]};
  let fee = -1;
  try {
    fee = (await originalEstimate.call(this, params, help)).fee;
  } catch (error) {
    answer.errors = [error.message];
  }
  if (fee > 0)
    answer.feerate = fee;
  else
    answer.errors = answer.errors || ['no estimate'];
  return answer;
};

/* The version as a number. */
prototype.getNetworkInfo = async function(params, help) {
  const answer = await originalInfo.call(this, params, help);
  const [major, minor, patch] = description.version.split('.').map(Number);
  return Object.assign({}, answer, {version: major * 1000000 + minor * 10000 + patch * 100});
};
