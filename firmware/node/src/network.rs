//! The board's network: DHCP over its Ethernet.

use defmt::{error, info};
use embassy_executor::Spawner;
use embassy_net::{Config, DhcpConfig, Runner, Stack, StackResources};
use lan9118::{Lan9118, StartError};
use static_cell::StaticCell;

/// Starts the network and waits until it has an address. Once; none where the board has no Ethernet, which the log says.
pub async fn network(spawner: Spawner) -> Option<Stack<'static>> {
    let ethernet = match mps2_an385::ethernet() {
        Ok(ethernet) => ethernet,
        Err(StartError::Absent(test)) => {
            error!("no LAN9118: its test register is {=u32:x}", test);
            return None;
        }
        Err(StartError::Reset) => {
            error!("the LAN9118 does not come out of its reset");
            return None;
        }
    };
    static RESOURCES: StaticCell<StackResources<4>> = StaticCell::new();
    let resources = RESOURCES.init_with(StackResources::new);
    // Ports and sequence numbers that differ from start to start are enough here: nothing secret hangs on them.
    let seed = mps2_an385::micros();
    let (stack, runner) = embassy_net::new(ethernet, Config::dhcpv4(DhcpConfig::default()), resources, seed);
    match carry(runner) {
        Ok(token) => spawner.spawn(token),
        Err(_) => {
            error!("the network's task runs already");
            return None;
        }
    }
    stack.wait_config_up().await;
    info!("the network is up");
    Some(stack)
}

#[embassy_executor::task]
async fn carry(mut runner: Runner<'static, Lan9118<'static>>) -> ! {
    runner.run().await
}
