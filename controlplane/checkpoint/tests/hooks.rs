//! A real redis saved by the shipped commands while a client is connected, killed, and brought back on
//! another node, where the client's connection goes on. Needs root, redis-server, redis-cli and ip.
#![forbid(unsafe_code)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::{Client, LIMIT, SERVER, node, redis, root};
use understudy_checkpoint::{
    Dumped, Error, Hooks, Manifest, Method, MethodKind, Running, Site, Store,
};
use understudy_linux::capsule::App;
use understudy_linux::netns::NetNs;
use understudy_linux::rtnl;
use understudy_linux::socks::{self, Proto};

fn command(name: &str) -> Vec<String> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/hooks");
    let program = dir.join(name).to_str().unwrap().to_string();
    vec![program, SERVER.split_once(':').unwrap().1.into()]
}

fn hooks(dir: &Path) -> Hooks {
    Hooks {
        snapshot: command("redis-snapshot.sh"),
        restore: command("redis-restore.sh"),
        ready: command("redis-ready.sh"),
        limit: LIMIT,
        app: redis(dir, &["--appendonly", "no", "--lua-time-limit", "100"]),
        ports: vec![(Proto::Tcp, 7001)],
        ready_limit: LIMIT,
    }
}

fn start(ns: &NetNs, hooks: &Hooks) -> App {
    hooks.start_from_nothing(ns, &hooks.app.work_dir.join("work")).unwrap();
    App::spawn(ns, &hooks.app).unwrap()
}

struct World {
    temp: tempfile::TempDir,
    client_ns: NetNs,
    ns: NetNs,
    hooks: Hooks,
    site: Site,
    app: App,
    store: Store,
}

impl World {
    fn new() -> World {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("app");
        let state: PathBuf = temp.path().join("state");
        fs::create_dir_all(&dir).unwrap();
        fs::create_dir_all(&state).unwrap();
        let client_ns = NetNs::create().unwrap();
        let ns = node(&client_ns);
        let hooks = hooks(&dir);
        let app = start(&ns, &hooks);
        let site = Site {
            state_dirs: vec![state],
            work: temp.path().join("work"),
            output: dir.join("output"),
        };
        let store = Store::open(&temp.path().join("checkpoints"), 2).unwrap();
        World { temp, client_ns, ns, hooks, site, app, store }
    }

    fn save(&self, to: &str) -> Result<Dumped, Error> {
        let running = Running { ns: &self.ns, pid: self.app.pid() };
        self.hooks.save(&running, &self.site, &self.temp.path().join(to))
    }

    /// A generation, once the application can be saved.
    fn checkpoint(&self) -> Dumped {
        let draft = self.store.begin().unwrap();
        let running = Running { ns: &self.ns, pid: self.app.pid() };
        let dumped = self.hooks.save(&running, &self.site, draft.dir()).unwrap();
        let clocks = dumped.clocks.clone();
        let mut manifest = Manifest { method: MethodKind::Hooks, clocks, ..Manifest::default() };
        manifest.set_age(dumped.taken.elapsed().unwrap());
        self.store.commit(draft, manifest).unwrap();
        dumped
    }

    /// The machine dies; the newest generation comes to life on another one.
    fn move_on(&mut self) {
        self.client_ns.run(|| rtnl::delete_link("us-host")).unwrap().unwrap();
        self.app.kill();
        self.ns = node(&self.client_ns);
        let begun = Instant::now();
        let newest = self.store.newest().unwrap();
        let restored = self.hooks.restore(&self.ns, &self.site, &newest).unwrap();
        println!("restored in {:?}: {} connections", begun.elapsed(), restored.connections.len());
        restored.app.go_on().unwrap();
        self.app = restored.app;
    }
}

#[test]
fn a_redis_goes_on_elsewhere_with_its_connections() {
    if !root() {
        return;
    }
    let mut world = World::new();
    let state = world.site.state_dirs[0].clone();
    fs::write(state.join("kept"), b"kept").unwrap();
    let mut clients: Vec<Client> = (0..20).map(|_| Client::connect(&world.client_ns)).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.ask(&format!("set key:{n} {n}")), "+OK");
    }
    assert_eq!(clients[0].ask("incr counter"), ":1");
    let begun = Instant::now();
    let dumped = world.checkpoint();
    println!("saved in {:?}: {dumped:?}", begun.elapsed());
    assert_eq!(dumped.clocks.len(), 20);
    assert!(!world.hooks.app.work_dir.join("dump.rdb").exists(), "nothing is left behind");
    fs::write(state.join("kept"), b"changed").unwrap();

    world.move_on();
    assert_eq!(fs::read(state.join("kept")).unwrap(), b"kept");
    for (n, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.ask(&format!("get key:{n}")), format!("${}", n.to_string().len()));
        assert_eq!(client.hear(), n.to_string());
    }
    assert_eq!(clients[7].ask("incr counter"), ":2");
    let mut other = Client::connect(&world.client_ns);
    assert_eq!(other.ask("dbsize"), ":21");
    // And again from there: what came by a listener is saved as any other.
    world.checkpoint();
    world.move_on();
    assert_eq!(clients[3].ask("incr counter"), ":3");
    assert_eq!(other.ask("incr counter"), ":4");
    // From nothing there is nothing.
    drop(clients);
    world.app.kill();
    socks::destroy_connections(&world.ns).unwrap();
    world.app = start(&world.ns, &world.hooks);
    assert_eq!(Client::connect(&world.client_ns).ask("dbsize"), ":0");
}

fn not_now(result: Result<Dumped, Error>) -> String {
    match result {
        Err(Error::NotNow(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn half_a_request_is_waited_for_and_what_cannot_be_saved_is_named() {
    if !root() {
        return;
    }
    let world = World::new();
    let mut client = Client::connect(&world.client_ns);
    assert_eq!(client.ask("set a 1"), "+OK");
    client.say("*2\r\n$3\r\nget\r\n$1\r\n");
    sleep(Duration::from_millis(50));
    let text = not_now(world.save("half"));
    assert!(text.contains("in the middle of a request"), "{text}");
    client.say("a\r\n");
    assert_eq!((client.hear(), client.hear()), ("$1".into(), "1".into()));
    assert_eq!(client.ask("multi"), "+OK");
    assert!(not_now(world.save("multi")).contains("in the middle of a request"));
    assert_eq!(client.ask("discard"), "+OK");
    world.save("whole").unwrap();
    // It is computing: no command is asked.
    client.say("eval \"while redis.call('exists','stop')==0 do end\" 0\r\n");
    sleep(Duration::from_millis(50));
    assert!(not_now(world.save("busy")).contains("has not come to rest"));
    let mut other = Client::connect(&world.client_ns);
    other.say("script kill\r\n");
    assert!(client.hear().starts_with("-ERR"), "the script ends");
    assert_eq!(client.ask("select 1"), "+OK");
    let error = world.save("database").unwrap_err();
    assert!(matches!(error, Error::Hook { .. }), "{error}");
    assert!(error.to_string().contains("has selected a database"), "{error}");
    // A command that hangs, and one that is not there.
    let mut hooks = world.hooks.clone();
    hooks.snapshot = ["/bin/sleep", "60"].map(String::from).into();
    hooks.limit = Duration::from_millis(50);
    let running = Running { ns: &world.ns, pid: world.app.pid() };
    let slow = hooks.save(&running, &world.site, &world.temp.path().join("slow")).unwrap_err();
    assert!(slow.to_string().contains("has not ended within 50 ms"), "{slow}");
    assert_eq!(other.ask("dbsize"), "+OK", "the answer to its first request");
    assert_eq!(other.hear(), ":1");
}
