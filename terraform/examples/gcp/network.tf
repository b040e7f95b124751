# A network of its own, from which machines reach the Internet, and which nothing reaches.

resource "google_compute_network" "this" {
  project                 = var.project
  name                    = "ckptsync-train"
  auto_create_subnetworks = false

  depends_on = [google_project_service.used]
}

# As it would be without any rule, but for everybody to see.
resource "google_compute_firewall" "nothing_in" {
  project       = var.project
  name          = "ckptsync-train-nothing-in"
  network       = google_compute_network.this.id
  direction     = "INGRESS"
  priority      = 65534
  source_ranges = ["0.0.0.0/0"]

  deny {
    protocol = "all"
  }
}

resource "google_compute_subnetwork" "machines" {
  project       = var.project
  region        = var.region
  name          = "ckptsync-train"
  network       = google_compute_network.this.id
  ip_cidr_range = "10.77.0.0/28"

  # Checkpoints go to the bucket from here, not through the gateway, which bills each byte.
  private_ip_google_access = true
}

resource "google_compute_router" "out" {
  project = var.project
  region  = var.region
  name    = "ckptsync-train"
  network = google_compute_network.this.id
}

resource "google_compute_router_nat" "out" {
  project                            = var.project
  region                             = var.region
  name                               = "ckptsync-train"
  router                             = google_compute_router.out.name
  nat_ip_allocate_option             = "AUTO_ONLY"
  source_subnetwork_ip_ranges_to_nat = "LIST_OF_SUBNETWORKS"

  subnetwork {
    name                    = google_compute_subnetwork.machines.id
    source_ip_ranges_to_nat = ["ALL_IP_RANGES"]
  }
}
