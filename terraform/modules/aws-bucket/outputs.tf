output "bucket" {
  description = "Name of the bucket."
  value       = aws_s3_bucket.this.bucket
}

output "url" {
  description = "What run URLs begin with: a run is a folder below it, such as `URL/my-run`."
  # Whoever uses it finds the bucket as it shall be.
  value      = local.url
  depends_on = [aws_s3_bucket_policy.this, aws_iam_role_policy.this]
}

output "region" {
  description = "Where the bucket is."
  value       = aws_s3_bucket.this.region
}

output "trainer_role_arn" {
  description = "The role that saves and restores."
  value       = aws_iam_role.this["trainer"].arn
}

output "trainer_role_name" {
  description = "Its name."
  value       = aws_iam_role.this["trainer"].name
}

output "trainer_instance_profile_name" {
  description = "What EC2 instances that train are given; null where EC2 is none of the trainer's principals."
  value       = one(aws_iam_instance_profile.trainer[*].name)
}

output "reader_role_arn" {
  description = "The role that only restores."
  value       = aws_iam_role.this["reader"].arn
}

output "gc_role_arn" {
  description = "The role that deletes."
  value       = aws_iam_role.this["gc"].arn
}

output "kms_key_arn" {
  description = "The key that encrypts the bucket; null with S3's own."
  value       = local.kms_key_arn
}

output "commands" {
  description = "What to run, by what it is for; put your run's name for `my-run`. `gc` and `rm` with the gc role, the others with the trainer's."
  value = {
    doctor  = "ckptsync doctor ${local.url}/my-run --region ${aws_s3_bucket.this.region}"
    run     = "ckptsync run ${local.url}/my-run --region ${aws_s3_bucket.this.region} --dir checkpoints -- python train.py"
    save    = "ckptsync save checkpoints ${local.url}/my-run --region ${aws_s3_bucket.this.region} --step 100"
    restore = "ckptsync restore ${local.url}/my-run checkpoints --region ${aws_s3_bucket.this.region}"
    ls      = "ckptsync ls ${local.url}/my-run --region ${aws_s3_bucket.this.region}"
    gc      = "ckptsync gc ${local.url}/my-run --region ${aws_s3_bucket.this.region} --keep-last 3"
  }
}
