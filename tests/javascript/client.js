// A client of the vault that shares nothing with ours: another language, other
// libraries, and no .proto file. It learns the API by reflection, and does with it what
// the contract promises to any gRPC client. Standard input says where and who, as JSON;
// standard output says what happened, as JSON. The test judges.
"use strict";

const crypto = require("node:crypto");
const fs = require("node:fs");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");
const protobuf = require("protobufjs");
const descriptors = require("protobufjs/ext/descriptor");

const LOADING = { keepCase: true, longs: String, enums: String, bytes: Buffer, defaults: true };
const DEADLINE_SECONDS = 30;

// ------------------------------------------------- what gRPC itself promises of servers

const string = (id) => ({ type: "string", id });
const bytes = (id, rule) => ({ type: "bytes", id, ...(rule && { rule }) });

const REFLECTION = loader.fromJSON({
  nested: { grpc: { nested: { reflection: { nested: { v1alpha: { nested: {
    ServerReflection: { methods: { ServerReflectionInfo: {
      requestType: "Request", requestStream: true,
      responseType: "Response", responseStream: true,
    } } },
    Request: {
      oneofs: { message_request: { oneof: ["file_by_filename", "file_containing_symbol", "list_services"] } },
      fields: { file_by_filename: string(3), file_containing_symbol: string(4), list_services: string(7) },
    },
    Response: { fields: {
      file_descriptor_response: { type: "Files", id: 4 },
      list_services_response: { type: "Services", id: 6 },
      error_response: { type: "Problem", id: 7 },
    } },
    Files: { fields: { file_descriptor_proto: bytes(1, "repeated") } },
    Services: { fields: { service: { type: "Service", id: 1, rule: "repeated" } } },
    Service: { fields: { name: string(1) } },
    Problem: { fields: { error_code: { type: "int32", id: 1 }, error_message: string(2) } },
  } } } } } } },
}, LOADING);

// google.rpc.Status and ErrorInfo: how a reason travels with any gRPC status.
const RPC = protobuf.Root.fromJSON({ nested: {
  Any: { fields: { type_url: string(1), value: bytes(2) } },
  Status: { fields: {
    code: { type: "int32", id: 1 }, message: string(2),
    details: { type: "Any", id: 3, rule: "repeated" },
  } },
  ErrorInfo: { fields: {
    reason: string(1), domain: string(2),
    metadata: { keyType: "string", type: "string", id: 3 },
  } },
} });

// ----------------------------------------------------------------------- learning the API

function asked(stream) {
  const waiting = [];
  stream.on("data", (answer) => waiting.shift().resolve(answer));
  stream.on("error", (error) => waiting.forEach((one) => one.reject(error)));
  return (question) => new Promise((resolve, reject) => {
    waiting.push({ resolve, reject });
    stream.write(question);
  });
}

async function learned(address, credentials, options) {
  const { ServerReflection } = grpc.loadPackageDefinition(REFLECTION).grpc.reflection.v1alpha;
  const client = new ServerReflection(address, credentials, options);
  const stream = client.ServerReflectionInfo();
  const ask = asked(stream);
  const listed = await ask({ list_services: "*" });
  const services = listed.list_services_response.service.map((one) => one.name);
  const files = new Map();
  const take = (answer) => {
    for (const raw of answer.file_descriptor_response.file_descriptor_proto) {
      files.set(descriptors.FileDescriptorProto.decode(raw).name, raw);
    }
  };
  const ours = services.filter((name) => name.startsWith("hsmvault."));
  for (const name of ours) take(await ask({ file_containing_symbol: name }));
  for (let missing = [""]; missing.length > 0;) {
    const needed = [...files.values()].flatMap((raw) => descriptors.FileDescriptorProto.decode(raw).dependency);
    missing = [...new Set(needed)].filter((name) => !files.has(name));
    for (const name of missing) take(await ask({ file_by_filename: name }));
  }
  stream.end();
  client.close();
  const set = protobuf.Writer.create();
  for (const raw of files.values()) set.uint32(10).bytes(raw);
  const api = loader.loadFileDescriptorSetFromBuffer(Buffer.from(set.finish()), LOADING);
  return { services, api: grpc.loadPackageDefinition(api).hsmvault.v1 };
}

// --------------------------------------------------------------------------------- calling

function call(client, method, request, { metadata = {}, seconds = DEADLINE_SECONDS } = {}) {
  const sent = new grpc.Metadata();
  for (const [name, value] of Object.entries(metadata)) sent.set(name, value);
  const options = { deadline: Date.now() + 1000 * seconds };
  return new Promise((resolve, reject) => {
    let answer;
    const made = client[method](request, sent, options, (error, found) => {
      if (error) reject(error);
      answer = found;
    });
    made.on("status", (status) => {
      if (status.code === grpc.status.OK) resolve({ answer, trailers: status.metadata.getMap() });
    });
  });
}

async function refusal(work) {
  try {
    await work();
  } catch (error) {
    const [packed] = error.metadata ? error.metadata.get("grpc-status-details-bin") : [];
    const told = { code: grpc.status[error.code], message: error.details };
    if (!packed) return told;
    const status = RPC.lookupType("Status").decode(packed);
    const [detail] = status.details;
    const info = RPC.lookupType("ErrorInfo").decode(detail.value);
    return { ...told, type: detail.type_url, said: status.message, ...info.toJSON() };
  }
  return { code: "OK" };
}

// Made again with twice the time, where a busy machine let the deadline come first.
async function refusedInTime(work, seconds = 1) {
  const told = await refusal(() => work(seconds));
  return told.code === "DEADLINE_EXCEEDED" && seconds < 60 ? refusedInTime(work, 2 * seconds) : told;
}

// ---------------------------------------------------------------------------- the contract

async function signs(api, keys, use) {
  const made = await call(keys, "CreateKey", { key_id: "script", key: { spec: { type: "EC", curve: "P-256" } } });
  const position = made.answer.position;
  const digest = crypto.createHash("sha256").update("pay 100").digest();
  const signed = await call(
    use, "Sign", { name: made.answer.name, algorithm: "ES256", digest },
    { metadata: { "min-position": position } },
  );
  const half = await call(keys, "GetPublicKey", { name: signed.answer.name });
  const { signature } = signed.answer;
  const key = crypto.createPublicKey(half.answer.pem);
  const by = (text) => crypto.verify("sha256", Buffer.from(text), { key, dsaEncoding: "ieee-p1363" }, signature);
  const verify = async (other) => {
    const asked = { name: made.answer.name, algorithm: "ES256", digest: other, signature };
    return (await call(use, "Verify", asked)).answer.valid;
  };
  return {
    name: made.answer.name, position, trailers: made.trailers, version: signed.answer.name,
    served: signed.answer.served, verified_here: by("pay 100"), forged_here: by("pay 900"),
    verified_there: await verify(digest),
    forged_there: await verify(crypto.createHash("sha256").update("pay 900").digest()),
  };
}

async function encrypts(keys, use) {
  const plaintext = crypto.randomBytes(100);
  // A map is a repeated entry on the wire, and protobufjs has it so from descriptors.
  const context = (tenant) => [{ key: "tenant", value: tenant }];
  await call(keys, "CreateKey", { key_id: "script-aes", key: { spec: { type: "oct", bits: 256 } } });
  const sealed = await call(use, "Encrypt", {
    name: "keys/script-aes", algorithm: "A256GCM", plaintext, encryption_context: context("seven"),
  });
  // What Encrypt answers is what Decrypt wants back, the version included.
  const { name, algorithm, ciphertext, iv, tag } = sealed.answer;
  const open = (encryption_context) => call(
    use, "Decrypt", { name, algorithm, ciphertext, iv, tag, encryption_context },
  );
  return {
    same: plaintext.equals((await open(context("seven"))).answer.plaintext),
    hidden: !ciphertext.includes(plaintext),
    other_context: await refusal(() => open(context("eight"))),
  };
}

async function main() {
  const told = JSON.parse(fs.readFileSync(0, "utf8"));
  const read = (path) => fs.readFileSync(path);
  const credentials = grpc.credentials.createSsl(read(told.ca), read(told.key), read(told.certificate));
  const options = { "grpc.service_config": read(told.service_config).toString() };
  const { services, api } = await learned(told.endpoint, credentials, options);
  const keys = new api.KeyService(told.endpoint, credentials, options);
  const use = new api.CryptoService(told.endpoint, credentials, options);
  // One that repeats would go on asking until its deadline.
  const once = new api.KeyService(told.endpoint, credentials);
  const stranger = new api.KeyService(told.endpoint, grpc.credentials.createSsl(read(told.ca)));
  const signed = await signs(api, keys, use);
  const [epoch, region, index] = signed.position.split(".");
  const future = [epoch, region, Number(index) + 1000].join(".");
  const result = {
    services, signed, encrypted: await encrypts(keys, use),
    refusals: {
      again: await refusal(() => call(keys, "CreateKey", { key_id: "script", key: { spec: { type: "EC", curve: "P-256" } } })),
      missing: await refusal(() => call(keys, "GetKey", { name: "keys/nobody" })),
      behind: await refusedInTime((seconds) => call(
        once, "GetKey", { name: "keys/script" }, { metadata: { "min-position": future }, seconds },
      )),
      stranger: await refusal(() => call(stranger, "GetKey", { name: "keys/script" }, { seconds: 5 })),
    },
  };
  [keys, use, once, stranger].forEach((client) => client.close());
  process.stdout.write(`${JSON.stringify(result)}\n`);
}

main().catch((error) => {
  process.stderr.write(`${error.stack}\n`);
  process.exit(1);
});
