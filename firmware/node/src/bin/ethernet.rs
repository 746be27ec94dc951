//! probe
#![no_std]
#![no_main]
use embassy_net::{Config, StackResources, tcp::TcpSocket};
use embassy_executor::Spawner;
use static_cell::StaticCell;
use lan9118::Lan9118;

#[embassy_executor::task]
async fn net(mut runner: embassy_net::Runner<'static, Lan9118<'static>>) -> ! { runner.run().await }

#[embassy_executor::main]
async fn main(spawner: Spawner) {
    mps2_an385::start(cortex_m::Peripherals::take().unwrap());
    defmt::info!("hello {}", mps2_an385::settings());
    let dev = match mps2_an385::ethernet() { Ok(d) => d, Err(_) => { defmt::error!("no eth"); loop {} } };
    static RES: StaticCell<StackResources<4>> = StaticCell::new();
    let (stack, runner) = embassy_net::new(dev, Config::dhcpv4(Default::default()), RES.init(StackResources::new()), 1234);
    spawner.spawn(net(runner).unwrap());
    stack.wait_config_up().await;
    defmt::info!("up {} us", mps2_an385::micros());
    static RX: StaticCell<[u8; 4096]> = StaticCell::new();
    static TX: StaticCell<[u8; 4096]> = StaticCell::new();
    let mut s = TcpSocket::new(stack, RX.init([0; 4096]), TX.init([0; 4096]));
    let r = s.connect((embassy_net::Ipv4Address::new(10,0,2,2), 7700)).await;
    defmt::info!("connected {}", r.is_ok());
    loop {
        let mut b = [0; 64];
        match s.read(&mut b).await { Ok(n) if n > 0 => { defmt::info!("got {} at {}", n, mps2_an385::micros()); let _ = s.write(&b[..n]).await; } _ => break }
    }
    defmt::info!("stack {}", mps2_an385::stack_used());
    core::future::pending::<()>().await
}
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! { defmt::error!("panic"); loop {} }
