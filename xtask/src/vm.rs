//! A virtual machine with another kernel and this machine's file system.
//!
//! qemu (software emulation: works on any host) boots the kernel with an initial RAM disk made
//! here; the root is this machine's `/` through virtiofs, read-only below an overlay in memory,
//! so what the guest writes vanishes with it. The guest is root, with the whole of cgroup v2 at
//! /sys/fs/cgroup and bpffs at its place, runs one script, and powers off.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use clap::Args;

use crate::{
    kernel_image::{self, Kernel, Release},
    setup::{self, Purpose, packages},
    step, workspace,
};

/// Modules that the guest needs before it has a root file system.
const BOOT_MODULES: &[&str] = &["virtio_pci", "virtiofs", "overlay"];
/// Memory of the guest, in MiB: room for debug builds of tests and for maps.
const MEMORY_MIB: u32 = 3072;
/// qemu 7.2 translates cmpxchg16b wrongly under 6.12 (the slab gets corrupted), so the guest
/// does without that instruction.
const CPU: &str = "max,cx16=off";
/// How often the machine is started. Emulated, a kernel that patches its own code while it boots
/// now and then runs what it patched half ("Oops: int3"); nothing of ours has begun then.
const BOOTS: u32 = 3;
/// How long the guest may run.
const TIME_LIMIT: Duration = Duration::from_mins(20);
/// The line on the console after which the script's output follows; firmware talks before.
const START_LINE: &str = "XTASK-GUEST-START";
/// The line on the console that carries the script's exit code.
const EXIT_LINE: &str = "XTASK-GUEST-EXIT=";

/// The guest's first program. `@VERSION@` is the kernel's release.
const INIT: &str = r"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t proc p /proc; mount -t sysfs s /sys; mount -t devtmpfs d /dev
for module in /modules/*; do insmod $module; done
mkdir -p /lower /rw
mount -t virtiofs -o ro host /lower || { echo 'no root file system'; poweroff -f; }
mount -t tmpfs t /rw; mkdir /rw/upper /rw/work
mount -t overlay -o lowerdir=/lower,upperdir=/rw/upper,workdir=/rw/work o /newroot
for dir in tmp run; do mount -t tmpfs t /newroot/$dir; done
mkdir -p /newroot/lib/modules/@VERSION@; mount -t virtiofs -o ro modules /newroot/lib/modules/@VERSION@
mount -t proc p /newroot/proc; mount -t sysfs s /newroot/sys; mount --bind /dev /newroot/dev
mkdir -p /newroot/dev/shm /newroot/dev/pts; mount -t devpts p /newroot/dev/pts; mount -t tmpfs t /newroot/dev/shm
ln -sf /proc/self/fd /newroot/dev/fd
mount -t bpf b /newroot/sys/fs/bpf; mount -t cgroup2 c /newroot/sys/fs/cgroup
mount -t tracefs t /newroot/sys/kernel/tracing; mount -t debugfs t /newroot/sys/kernel/debug
cp /bin/busybox /script /newroot/run/
cat > /newroot/run/start <<'START'
echo; echo XTASK-GUEST-START
ip link set lo up
/bin/sh /run/script; code=$?
echo; echo XTASK-GUEST-EXIT=$code
/run/busybox sync; /run/busybox poweroff -f
START
# The first process changes root, so that the kernel finds modprobe there.
exec switch_root /newroot /bin/sh /run/start
";

/// `cargo xtask vm`: for looking at what another kernel does.
#[derive(Args, Debug)]
pub struct Vm {
    /// The kernel
    kernel: Release,
    /// What the guest's shell runs
    #[arg(default_value = "uname -r")]
    command: String,
}

impl Vm {
    /// Boots, runs the command, ends with its failure.
    ///
    /// # Errors
    /// The machine cannot be made or started, or the command fails.
    pub fn run(self) -> Result<()> {
        setup::ensure(&[Purpose::Kernel])?;
        let kernel = kernel_image::ensure(self.kernel)?;
        let ended = Machine::new(&kernel).run(&format!("{}\n", self.command))?;
        if ended.exit_code != 0 {
            bail!(
                "under Linux {}: exit code {}",
                kernel.version,
                ended.exit_code
            );
        }
        Ok(())
    }
}

/// A machine that is ready to be started.
pub struct Machine<'kernel> {
    kernel: &'kernel Kernel,
    /// What each line of the console is shown with.
    label: String,
}

/// How a script ended.
pub struct Ended {
    /// Everything that came over the console after the start, lines ending in `\n`.
    pub console: String,
    /// The exit code of the script.
    pub exit_code: i32,
}

impl<'kernel> Machine<'kernel> {
    /// A machine with this kernel.
    pub const fn new(kernel: &'kernel Kernel) -> Self {
        Self {
            kernel,
            label: String::new(),
        }
    }

    /// The same, with something before each line of the console that is shown.
    pub fn labelled(mut self, label: &str) -> Self {
        label.clone_into(&mut self.label);
        self
    }

    /// Boots, runs a shell script as root, powers off; shows the console meanwhile.
    ///
    /// # Errors
    /// The machine does not boot, does not end in time, or ends without an exit code.
    pub fn run(&self, script: &str) -> Result<Ended> {
        let scratch = workspace::target().join(format!("vm-{}", self.name()));
        fs::create_dir_all(&scratch)?;
        let ended = self.run_in(&scratch, script);
        // Kept when something failed: the logs of virtiofsd are in it.
        if ended.is_ok() {
            fs::remove_dir_all(&scratch)?;
        }
        ended
    }

    /// Of its files, among those of other machines.
    fn name(&self) -> String {
        format!("{}-{}", std::process::id(), self.kernel.version)
    }

    fn run_in(&self, scratch: &Path, script: &str) -> Result<Ended> {
        let initrd = self.initrd(scratch, script)?;
        // Sockets have short paths whatever the target directory (108 bytes at most, unix(7)).
        let sockets = PathBuf::from(format!("/tmp/xtask-vm-{}", self.name()));
        fs::create_dir_all(&sockets)?;
        let ended = (|| {
            let modules = self.kernel.modules();
            for _ in 0..BOOTS {
                let shares = [
                    Share::start("host", Path::new("/"), &sockets, scratch)?,
                    Share::start("modules", &modules, &sockets, scratch)?,
                ];
                if let Some(ended) = watch(&mut self.qemu(&initrd, &shares)?, &self.label)? {
                    return Ok(ended);
                }
                step::say("the machine did not boot");
                for share in &shares {
                    let _ = fs::remove_file(&share.socket);
                }
            }
            bail!("the machine did not boot, {BOOTS} times")
        })();
        fs::remove_dir_all(&sockets)?;
        ended.with_context(|| format!("the machine's logs are in {}", scratch.display()))
    }

    /// The initial RAM disk: busybox, modules, the first program and the script.
    fn initrd(&self, scratch: &Path, script: &str) -> Result<PathBuf> {
        let tree = scratch.join("initrd");
        for dir in ["bin", "modules", "dev", "proc", "sys", "newroot"] {
            fs::create_dir_all(tree.join(dir))?;
        }
        let busybox = packages::locate(&["/bin/busybox"]).context("busybox-static is missing")?;
        fs::copy(busybox, tree.join("bin/busybox"))?;
        for (index, module) in self.boot_modules()?.iter().enumerate() {
            let name = module.file_stem().unwrap_or_default().display().to_string();
            let plain = decompressed(module)?;
            fs::write(tree.join(format!("modules/{index:02}-{name}")), plain)?;
        }
        fs::write(tree.join("script"), script)?;
        let init = tree.join("init");
        fs::write(&init, INIT.replace("@VERSION@", &self.kernel.version))?;
        fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
        let archive = scratch.join("initrd.cpio");
        let mut pack = workspace::command("/bin/sh");
        pack.args(["-c", "find . | cpio -o -H newc --quiet"])
            .current_dir(&tree)
            .stdin(Stdio::null())
            .stdout(fs::File::create(&archive)?);
        if !pack.status()?.success() {
            bail!("cpio could not pack {}", tree.display());
        }
        Ok(archive)
    }

    /// Files of the boot modules and of what they depend on, in the order to load them.
    fn boot_modules(&self) -> Result<Vec<PathBuf>> {
        let mut seen = BTreeSet::new();
        let mut files = Vec::new();
        for module in BOOT_MODULES {
            let mut modprobe = workspace::command("modprobe");
            modprobe.arg("-d").arg(&self.kernel.root);
            modprobe.args(["-S", &self.kernel.version, "--show-depends", module]);
            for line in step::output(&mut modprobe)?.lines() {
                // The other kind of line is `builtin NAME`.
                if let Some(file) = line
                    .strip_prefix("insmod ")
                    .map(|file| PathBuf::from(file.trim()))
                    && seen.insert(file.clone())
                {
                    files.push(file);
                }
            }
        }
        Ok(files)
    }

    fn qemu(&self, initrd: &Path, shares: &[Share]) -> Result<Command> {
        let mut qemu = packages::command(&["qemu-system-x86_64"])?;
        // Firmware, if qemu is not where it was built to be.
        for data in ["usr/share/qemu", "usr/share/seabios"] {
            qemu.arg("-L").arg(packages::private_root().join(data));
        }
        qemu.args(["-accel", "tcg,thread=multi", "-cpu", CPU, "-smp", "2", "-m"])
            .arg(MEMORY_MIB.to_string())
            .args([
                "-nographic",
                "-no-reboot",
                "-nodefaults",
                "-serial",
                "stdio",
                "-net",
                "none",
            ])
            // virtiofs works on memory that both processes see.
            .arg("-object")
            .arg(format!(
                "memory-backend-memfd,id=mem,size={MEMORY_MIB}M,share=on"
            ))
            .args(["-numa", "node,memdev=mem"]);
        for Share { tag, socket, .. } in shares {
            qemu.arg("-chardev")
                .arg(format!("socket,id={tag},path={}", socket.display()));
            qemu.arg("-device")
                .arg(format!("vhost-user-fs-pci,chardev={tag},tag={tag}"));
        }
        qemu.arg("-kernel")
            .arg(&self.kernel.image)
            .arg("-initrd")
            .arg(initrd);
        qemu.args(["-append", "console=ttyS0 quiet panic=-1"]);
        Ok(qemu)
    }
}

/// A directory of this machine that the guest sees.
struct Share {
    tag: &'static str,
    socket: PathBuf,
    daemon: Child,
}

impl Share {
    fn start(tag: &'static str, directory: &Path, sockets: &Path, logs: &Path) -> Result<Self> {
        let mut command = packages::command(packages::VIRTIOFSD)?;
        let program = PathBuf::from(command.get_program());
        let socket = sockets.join(tag);
        let log = fs::File::create(logs.join(format!("virtiofsd-{tag}.log")))?;
        command.arg(format!("--socket-path={}", socket.display()));
        if program.ends_with("lib/qemu/virtiofsd") {
            // The one that came with qemu, up to 7.2.
            let options = format!(
                "source={},cache=always,sandbox=chroot,xattr",
                directory.display()
            );
            command.args(["-o", &options]);
        } else {
            command.arg("--shared-dir").arg(directory).args([
                "--cache=always",
                "--sandbox=chroot",
                "--xattr",
            ]);
        }
        let daemon = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let share = Self {
            tag,
            socket,
            daemon,
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        while !share.socket.exists() {
            if Instant::now() > deadline {
                bail!(
                    "{} made no socket for {}",
                    program.display(),
                    directory.display()
                );
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(share)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        // It ends by itself when qemu does; this is for a machine that never started.
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// Runs qemu to its end, passes the console on, and reads the exit code from it. `None`: it ended
/// before the script began.
fn watch(qemu: &mut Command, label: &str) -> Result<Option<Ended>> {
    let mut child = qemu
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start qemu-system-x86_64")?;
    let pipe = child.stdout.take().context("the console was asked for")?;
    let (lines, console) = mpsc::channel();
    let reader = thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line)
                .trim_end_matches('\r')
                .to_owned();
            if lines.send(line).is_err() {
                return;
            }
        }
    });
    let deadline = Instant::now() + TIME_LIMIT;
    let mut ended = Ended {
        console: String::new(),
        exit_code: -1,
    };
    let mut boot = Some(String::new());
    let mut exit_code = None;
    loop {
        match console.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                if let Some(code) = line.strip_prefix(EXIT_LINE) {
                    exit_code = code.trim().parse().ok();
                    continue;
                }
                if let Some(text) = &mut boot {
                    if line == START_LINE {
                        boot = None;
                    } else {
                        text.push_str(&line);
                        text.push('\n');
                    }
                    continue;
                }
                println!("{label}{line}");
                let _ = std::io::stdout().flush();
                ended.console.push_str(&line);
                ended.console.push('\n');
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                child.kill()?;
                child.wait()?;
                bail!("the machine did not end within {} s", TIME_LIMIT.as_secs());
            }
        }
    }
    child.wait()?;
    // The channel is closed, so the reader has ended.
    let _ = reader.join();
    if let Some(held_back) = boot {
        // It may say why.
        eprint!("{held_back}");
        return Ok(None);
    }
    let Some(code) = exit_code else {
        bail!("the machine ended without an exit code (a kernel panic?)");
    };
    ended.exit_code = code;
    Ok(Some(ended))
}

/// The content of a module file, which distributions compress in different ways.
fn decompressed(module: &Path) -> Result<Vec<u8>> {
    let program = match module.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return fs::read(module).with_context(|| format!("cannot read {}", module.display())),
    };
    let done = workspace::command(program)
        .arg("-dc")
        .arg(module)
        .output()?;
    if !done.status.success() {
        bail!("{program} cannot decompress {}", module.display());
    }
    Ok(done.stdout)
}
