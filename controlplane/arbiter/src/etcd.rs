//! One key of an etcd cluster, over its JSON gateway.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use understudy_proto::arbiter::{ArbiterAnswer, ArbiterRequest, Register, Step, step};
use understudy_wire::NodeId;
use ureq::Agent;
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};

use crate::{ArbiterError, value};

/// How often a write is tried again when someone else wrote in between.
const ATTEMPTS_MAX: usize = 4;
/// No answer of etcd to what is asked here is longer.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

/// Where the register is kept, and for whom.
#[derive(Clone, Debug)]
pub struct EtcdConfig {
    /// `http://` or `https://` addresses of members of one etcd cluster.
    pub endpoints: Vec<String>,
    /// How long a request may take over all endpoints.
    pub timeout: Duration,
    /// Name of the group.
    pub cluster: String,
    /// This node.
    pub me: NodeId,
    /// Both nodes of the group.
    pub both: Vec<NodeId>,
    /// For `https://`.
    pub tls: Tls,
}

/// PEM files for `https://`.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// Authorities that may have signed the endpoints' certificates; without it, the public ones.
    pub ca_file: Option<PathBuf>,
    /// This node's certificate and its key, where etcd asks for one.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// The keeper of the register. One request at a time; see [`understudy_proto::arbiter`].
pub struct Etcd {
    agent: Agent,
    endpoints: Vec<String>,
    /// Which endpoint answered last.
    good: usize,
    timeout: Duration,
    key: String,
    me: NodeId,
    both: Vec<NodeId>,
}

/// The key as it was read.
struct Held {
    register: Option<Register>,
    mod_revision: i64,
}

impl Etcd {
    /// A client; connects to nobody yet.
    ///
    /// # Errors
    /// TLS material that cannot be read.
    pub fn new(config: EtcdConfig) -> Result<Etcd, ArbiterError> {
        let agent = Agent::config_builder()
            .tls_config(tls(&config.tls)?)
            .proxy(None)
            .http_status_as_error(false)
            .max_redirects(0)
            .build()
            .into();
        let endpoints =
            config.endpoints.iter().map(|e| e.trim_end_matches('/').to_owned()).collect();
        let key = format!("/understudy/{}/register", config.cluster);
        let EtcdConfig { timeout, me, both, .. } = config;
        Ok(Etcd { agent, endpoints, good: 0, timeout, key, me, both })
    }

    /// Serves one request. Always an answer, with the reason if it is `Unreachable`.
    pub fn serve(&mut self, request: &ArbiterRequest) -> (ArbiterAnswer, Option<ArbiterError>) {
        let deadline = Instant::now() + self.timeout;
        let count = self.endpoints.len();
        let mut last = None;
        for tried in 0..count {
            let index = (self.good + tried) % count;
            // Each endpoint gets its share of what is left, so that one that is dead does not use it up.
            let left = deadline.saturating_duration_since(Instant::now());
            let until = Instant::now() + left / (count - tried) as u32;
            match self.serve_by(index, request, until) {
                Ok(answer) => {
                    self.good = index;
                    return (answer, None);
                }
                // Another endpoint would say the same.
                Err(e @ ArbiterError::Value { .. }) => {
                    return (ArbiterAnswer::Unreachable, Some(e));
                }
                Err(e) => last = Some(e),
            }
        }
        (ArbiterAnswer::Unreachable, last)
    }

    /// Read, decide, write if nothing changed. A write whose answer is lost may have been done or may yet be: the
    /// next write, by whatever endpoint, makes it void, since each holds only for the revision that was read.
    fn serve_by(
        &self,
        index: usize,
        request: &ArbiterRequest,
        until: Instant,
    ) -> Result<ArbiterAnswer, ArbiterError> {
        for _ in 0..ATTEMPTS_MAX {
            let held = self.read(index, until)?;
            match step(held.register.as_ref(), self.me, &self.both, request) {
                Step::Answer(answer) => return Ok(answer),
                Step::Write(register) => {
                    if self.write(index, &register, held.mod_revision, until)? {
                        return Ok(ArbiterAnswer::Granted(register));
                    }
                }
            }
        }
        Err(ArbiterError::Contended(self.key.clone()))
    }

    fn read(&self, index: usize, until: Instant) -> Result<Held, ArbiterError> {
        let body = json!({ "key": BASE64.encode(&self.key) });
        let answer = self.call(index, "range", &body, until)?;
        let Some(kv) = answer["kvs"].get(0) else {
            return Ok(Held { register: None, mod_revision: 0 });
        };
        let mod_revision = kv["mod_revision"].as_str().and_then(|text| text.parse().ok());
        let bytes = kv["value"].as_str().and_then(|text| BASE64.decode(text).ok());
        let (Some(mod_revision), Some(bytes)) = (mod_revision, bytes) else {
            return Err(self.failed(index, "an answer that is not etcd's"));
        };
        let register = value::decode(&bytes)
            .map_err(|reason| ArbiterError::Value { key: self.key.clone(), reason })?;
        Ok(Held { register: Some(register), mod_revision })
    }

    /// Whether it was written: not if the key has changed since `mod_revision` (0: since it did not exist).
    fn write(
        &self,
        index: usize,
        register: &Register,
        mod_revision: i64,
        until: Instant,
    ) -> Result<bool, ArbiterError> {
        let key = BASE64.encode(&self.key);
        let body = json!({
            "compare": [{
                "key": key,
                "target": "MOD",
                "result": "EQUAL",
                "mod_revision": mod_revision.to_string(),
            }],
            "success": [{
                "request_put": { "key": key, "value": BASE64.encode(value::encode(register)) },
            }],
        });
        let answer = self.call(index, "txn", &body, until)?;
        match &answer["succeeded"] {
            Value::Bool(done) => Ok(*done),
            // The gateway leaves out what is false, but never the header.
            Value::Null if answer["header"].is_object() => Ok(false),
            _ => Err(self.failed(index, "an answer that is not etcd's")),
        }
    }

    fn call(
        &self,
        index: usize,
        method: &str,
        body: &Value,
        until: Instant,
    ) -> Result<Value, ArbiterError> {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(self.failed(index, "no answer in time"));
        }
        let url = format!("{}/v3/kv/{method}", self.endpoints[index]);
        let mut response = self
            .agent
            .post(&url)
            .config()
            .timeout_global(Some(left))
            .build()
            .send_json(body)
            .map_err(|e| self.failed(index, &e.to_string()))?;
        let status = response.status();
        let text = response
            .body_mut()
            .with_config()
            .limit(ANSWER_BYTES_MAX)
            .read_to_string()
            .map_err(|e| self.failed(index, &e.to_string()))?;
        if !status.is_success() {
            let text: String = text.chars().take(200).collect();
            return Err(self.failed(index, &format!("HTTP status {status}: {}", text.trim())));
        }
        serde_json::from_str(&text)
            .map_err(|e| self.failed(index, &format!("an answer that is not JSON: {e}")))
    }

    fn failed(&self, index: usize, reason: &str) -> ArbiterError {
        ArbiterError::Endpoint { endpoint: self.endpoints[index].clone(), reason: reason.into() }
    }
}

fn tls(tls: &Tls) -> Result<TlsConfig, ArbiterError> {
    let mut builder = TlsConfig::builder();
    if let Some(file) = &tls.ca_file {
        builder = builder.root_certs(RootCerts::new_with_certs(&certificates(file)?));
    }
    if let Some((certificate, key)) = &tls.client {
        let private = PrivateKey::from_pem(&pem(key)?)
            .map_err(|e| unusable(key, &format!("no private key in it: {e}")))?;
        let chain = certificates(certificate)?;
        builder = builder.client_cert(Some(ClientCert::new_with_certs(&chain, private)));
    }
    Ok(builder.build())
}

fn certificates(file: &std::path::Path) -> Result<Vec<Certificate<'static>>, ArbiterError> {
    let bytes = pem(file)?;
    let mut found = Vec::new();
    for item in parse_pem(&bytes) {
        match item {
            Ok(PemItem::Certificate(certificate)) => found.push(certificate),
            Ok(_) => {}
            Err(e) => return Err(unusable(file, &e.to_string())),
        }
    }
    if found.is_empty() {
        return Err(unusable(file, "no certificate in it"));
    }
    Ok(found)
}

fn pem(file: &std::path::Path) -> Result<Vec<u8>, ArbiterError> {
    std::fs::read(file).map_err(|e| unusable(file, &e.to_string()))
}

fn unusable(file: &std::path::Path, reason: &str) -> ArbiterError {
    ArbiterError::Tls { file: file.display().to_string(), reason: reason.into() }
}
