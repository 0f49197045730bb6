"""What every data source rests on: sources, splits, batches and stores."""
